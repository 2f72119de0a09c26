// Sums over a warp, a block and many blocks, always in the same order.
//
// A Sum is a plain struct with merge(const Sum&). No atomics: the order of a floating-point sum
// depends on the position of its terms alone, so repeated runs agree bit for bit.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/workspace.h"

namespace rlhf::cuda {

// Threads of the kernels that reduce; kBlockItems is a multiple of it.
constexpr int kReduceThreads = 256;

// The sum over the warp, in every lane; addition commutes, so all lanes get the same bits.
template <typename T>
__device__ T warp_sum(T value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

__device__ inline float warp_max(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

// Merges the threads' sums, neighbours in halves; every thread gets the result. `shared` has room
// for one Sum per thread, and blockDim.x is a power of two; a barrier before `shared` is used
// again.
template <typename Sum>
__device__ Sum block_merge(const Sum& mine, Sum* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = mine;
  __syncthreads();
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread].merge(shared[thread + half]);
    __syncthreads();
  }
  return shared[0];
}

// Block b's place in the workspace.
template <typename Sum>
__device__ Sum* partial(double* workspace, int64_t block) {
  static_assert(sizeof(Sum) <= kPartialDoubles * sizeof(double), "raise kPartialDoubles");
  return reinterpret_cast<Sum*>(workspace + block * kPartialDoubles);
}

// The sum of all partials, in every thread of the block that calls this.
template <typename Sum>
__device__ Sum merge_partials(double* workspace, int64_t blocks, Sum* shared) {
  Sum mine;
  for (int64_t b = threadIdx.x; b < blocks; b += blockDim.x) {
    mine.merge(*partial<Sum>(workspace, b));
  }
  return block_merge(mine, shared);
}

}  // namespace rlhf::cuda
