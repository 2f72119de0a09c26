// A stand-in for <cuda_runtime.h> that lets g++ compile the portable kernels and run them on the
// host, one fiber per thread. Test-only; it knows what csrc/cuda uses and nothing else.
//
// A block's threads run one at a time, each until it waits, in the order that RLHF_EMULATION_ORDER
// names: forward, reverse or shuffled. A missing barrier then shows as a wrong result in one of
// them. Shared memory is a heap block of the size asked for, filled with 0xff before every block,
// so that sanitizers see its ends and a read before a write gives NaN. A barrier or a warp function
// that some threads of its block or warp do not reach ends the program.
//
// The blocks of a cluster, or all of a cooperative launch, run at the same time, each with shared
// memory of its own, which ends with the block: a peer that reads it later finds NaN or the
// sanitizer. A thread may also spin: yield() lets the others run, and a launch in which nothing
// but spinning happens ends the program.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ _Pragma("GCC error \"use block_shared<T>() of launch.cuh\"")

struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulation {

struct Place {
  const char* file;
  int line;
};

// How a launch is cut into blocks, and which of them run at the same time.
struct Launch {
  int64_t blocks;
  int threads;
  size_t shared_bytes;
  int group = 1;             // blocks of a cluster, consecutive ones
  bool cooperative = false;  // the whole grid at once
};

// The device that launches ask about. A test may change it to have other kernels chosen.
struct Device {
  int capability = 90;      // 10 * major + minor
  int resident_blocks = 6;  // of any kernel, in a cooperative launch
  int largest_group = 16;   // of any kernel's blocks, from 9.0 on
};
Device& device();

// Runs `kernel` once per thread, one group of blocks after the other.
void run(const Launch& launch, const std::function<void()>& kernel);

uint3 thread_index();
uint3 block_index();
uint3 block_dim();
uint3 grid_dim();
void* shared_memory();

void wait_for_block(Place place);
void wait_for_cluster(Place place);
void wait_for_grid(Place place);
// Lets every other thread have a turn: for a thread that waits for a value to change.
void yield(Place place);
int cluster_rank();
int cluster_size();
// What lies in the shared memory of the cluster's block `rank` where `mine` lies in this block's.
void* peer(void* mine, int rank);
// Hands in 8 bytes, waits for the warp, and returns what lane `lane` handed in.
uint64_t exchange(Place place, uint64_t bits, int lane);
uint32_t vote(Place place, bool predicate);
uint32_t highest(Place place, uint32_t value);
int lane();

template <typename T>
T shuffle(Place place, T value, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(place, bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T atomic_add(T* address, T value) {
  const T old = *address;
  *address += value;
  return old;
}

}  // namespace emulation

#define threadIdx emulation::thread_index()
#define blockIdx emulation::block_index()
#define blockDim emulation::block_dim()
#define gridDim emulation::grid_dim()

#define EMULATION_HERE \
  emulation::Place { __FILE__, __LINE__ }
#define __syncthreads() emulation::wait_for_block(EMULATION_HERE)
#define __syncwarp(...) emulation::vote(EMULATION_HERE, true)
#define __ballot_sync(mask, predicate) emulation::vote(EMULATION_HERE, predicate)
#define __any_sync(mask, predicate) (emulation::vote(EMULATION_HERE, predicate) != 0)
#define __all_sync(mask, predicate) (emulation::vote(EMULATION_HERE, predicate) == 0xffffffffu)
#define __reduce_max_sync(mask, value) emulation::highest(EMULATION_HERE, value)
#define __shfl_sync(mask, value, source) \
  emulation::shuffle(EMULATION_HERE, value, static_cast<int>(source) & 31)
#define __shfl_xor_sync(mask, value, other) \
  emulation::shuffle(EMULATION_HERE, value, emulation::lane() ^ (other))
// Past the end of the warp a lane gets its own value back.
#define __shfl_down_sync(mask, value, delta) \
  emulation::shuffle(                        \
      EMULATION_HERE, value,                 \
      emulation::lane() + (delta) > 31 ? emulation::lane() : emulation::lane() + (delta))
#define __shfl_up_sync(mask, value, delta) \
  emulation::shuffle(                      \
      EMULATION_HERE, value,               \
      emulation::lane() < (delta) ? emulation::lane() : emulation::lane() - (delta))

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return emulation::atomic_add(address, value);
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  return emulation::atomic_add(address, value);
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
// The low 32 bits of high:low shifted right by shift % 32.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<unsigned>(both >> (shift & 31));
}
