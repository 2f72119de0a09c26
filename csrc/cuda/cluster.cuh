// Blocks that run at the same time: those of a cluster, which read each other's shared memory, and
// those of a cooperative launch. launch_group() of launch.cuh starts them.
//
// Clusters exist from compute capability 9.0 on. A kernel that uses them is compiled for older
// devices too; it must not be launched there, and traps.
#pragma once

#include "cuda/launch.cuh"

#ifndef RLHF_EMULATE_CUDA
#include <cooperative_groups.h>
#endif

namespace rlhf::cuda {

#ifdef RLHF_EMULATE_CUDA

inline int cluster_rank() { return emulation::cluster_rank(); }
inline int cluster_size() { return emulation::cluster_size(); }
// The place is the caller's, so that the emulation sees who waits where.
inline void cluster_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::wait_for_cluster({file, line});
}
inline void cluster_arrive() {}
inline void cluster_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::wait_for_cluster({file, line});
}
template <typename T>
T* cluster_peer(T* mine, int rank) {
  return static_cast<T*>(emulation::peer(mine, rank));
}
inline void grid_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::wait_for_grid({file, line});
}

#else

// This block's place in its cluster.
__device__ inline int cluster_rank() {
  unsigned rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#else
  __trap();
#endif
  return static_cast<int>(rank);
}

__device__ inline int cluster_size() {
  unsigned size = 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#else
  __trap();
#endif
  return static_cast<int>(size);
}

// Every thread of the cluster arrives, then waits for all; what they wrote to shared memory before
// is seen after.
__device__ inline void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#else
  __trap();
#endif
}

__device__ inline void cluster_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}

__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The variable in block `rank` of the cluster that `mine` is in this one; both in shared memory. A
// barrier of the cluster must lie before its use, since that block may not have begun, and another
// after it, since the block must not have ended.
template <typename T>
__device__ T* cluster_peer(T* mine, int rank) {
  uint64_t address = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(mine), "r"(rank));
#else
  __trap();
#endif
  return reinterpret_cast<T*>(address);
}

// Waits for every thread of a cooperative launch; what they wrote before is seen after.
__device__ inline void grid_sync() { cooperative_groups::this_grid().sync(); }

#endif

}  // namespace rlhf::cuda
