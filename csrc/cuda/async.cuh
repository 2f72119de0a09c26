// Copies into shared memory that run beside the threads, and the barriers that say when they are
// done (compute capability 9.0 and up; csrc/tests/emulation does the same on the host).
//
// A Barrier has phases. A phase ends when as many threads as it was made for have arrived and all
// bytes that were announced have come; wait(parity) returns once the phase of that parity is over.
// The first phase has parity 0, so waiting for 1 on a new barrier returns at once.
#pragma once

#ifdef RLHF_EMULATE_CUDA
#include <vector>
#endif

#include "cuda/launch.cuh"

namespace rlhf::cuda {

struct alignas(8) Barrier {
  uint64_t word;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// Once per block after its barriers are made, by the thread that made them.
__device__ inline void barriers_made() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and announces bytes that copies will bring.
__device__ inline void barrier_expect(Barrier* barrier, uint32_t bytes) {
  asm volatile(
      "{\n .reg .b64 state;\n mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(
          shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ inline void barrier_wait(Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred over;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      " @over bra ended;\n bra again;\nended:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// `bytes`, and both addresses, are multiples of 16.
__device__ inline void bulk_load(void* to, const void* from, uint32_t bytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

#elif defined(RLHF_EMULATE_CUDA)

struct HostBarrier {
  uint16_t arrivals;
  uint16_t pending;
  int32_t bytes : 31;
  uint32_t phase : 1;

  void settle() {
    if (pending > 0 || bytes != 0) return;
    phase ^= 1u;
    pending = arrivals;
  }
};
static_assert(sizeof(HostBarrier) == sizeof(Barrier), "a host barrier lies in its place");

inline HostBarrier& host_barrier(Barrier* barrier) {
  return *reinterpret_cast<HostBarrier*>(barrier);
}
// Copies come as late as they may: when a thread waits for them, and to none that does not.
struct HostCopy {
  Barrier* barrier;
  void* to;
  const void* from;
  uint32_t bytes;
};
inline std::vector<HostCopy>& host_copies() {
  static std::vector<HostCopy> copies;
  return copies;
}
// Those of the barrier leave the list, done or, where it is made anew, not.
inline void end_copies(Barrier* barrier, bool done) {
  std::vector<HostCopy> others;
  for (const HostCopy& copy : host_copies()) {
    if (copy.barrier != barrier) {
      others.push_back(copy);
    } else if (done) {
      std::memcpy(copy.to, copy.from, copy.bytes);
      host_barrier(barrier).bytes -= static_cast<int32_t>(copy.bytes);
    }
  }
  host_copies().swap(others);
}
inline void barrier_init(Barrier* barrier, int arrivals) {
  end_copies(barrier, false);
  const uint16_t count = static_cast<uint16_t>(arrivals);
  host_barrier(barrier) = {count, count, 0, 0};
}
inline void barriers_made() {}
inline void barrier_expect(Barrier* barrier, uint32_t bytes) {
  host_barrier(barrier).bytes += static_cast<int32_t>(bytes);
  host_barrier(barrier).pending -= 1;
  host_barrier(barrier).settle();
}
inline void barrier_wait(Barrier* barrier, uint32_t parity) {
  while (host_barrier(barrier).phase == parity) {
    end_copies(barrier, true);
    host_barrier(barrier).settle();
    if (host_barrier(barrier).phase == parity) emulation::yield(EMULATION_HERE);
  }
}
inline void bulk_load(void* to, const void* from, uint32_t bytes, Barrier* barrier) {
  host_copies().push_back({barrier, to, from, bytes});
}

#else  // older devices take the portable kernels; these are never called

__device__ inline void barrier_init(Barrier*, int) {}
__device__ inline void barriers_made() {}
__device__ inline void barrier_expect(Barrier*, uint32_t) {}
__device__ inline void barrier_wait(Barrier*, uint32_t) {}
__device__ inline void bulk_load(void*, const void*, uint32_t, Barrier*) {}

#endif

}  // namespace rlhf::cuda
