// Masked sums over tokens in blocks of fixed size, and what they are divided by.
#pragma once

#include <cmath>

#include "cuda/reduce.cuh"

namespace rlhf::cuda {

template <typename Sum>
struct ThreadSums {
  Sum sums[kReduceThreads];
};

// body(i) for this thread's tokens of block b, [b * kBlockItems, (b + 1) * kBlockItems).
template <typename Body>
__device__ void for_tokens(int64_t block, int64_t count, const Body& body) {
  const int64_t first = block * kBlockItems + threadIdx.x;
  for (int k = 0; k < kBlockItems / kReduceThreads; ++k) {
    const int64_t i = first + k * kReduceThreads;
    if (i < count) body(i);
  }
}

// Adds up the block's threads and leaves the sum in the workspace; needs ThreadSums<Sum>.
template <typename Sum>
__device__ void leave_partial(const Sum& mine, double* workspace) {
  const Sum sum = block_merge(mine, block_shared<ThreadSums<Sum>>().sums);
  if (threadIdx.x == 0) *partial<Sum>(workspace, blockIdx.x) = sum;
}

// 1 / denominator, or 1 / count without one; 0 when there is nothing to divide. The CPU refuses a
// denominator that is negative, not finite, or 0 while something counts; here it gives NaN.
__device__ inline double mean_factor(bool given, double denominator, double count) {
  const double divisor = given ? denominator : count;
  if (!(divisor >= 0) || std::isinf(divisor) || (divisor == 0 && count > 0)) return NAN;
  return divisor > 0 ? 1.0 / divisor : 0.0;
}

__device__ inline double mean_factor(const double* denominator, double count) {
  return mean_factor(denominator != nullptr, denominator ? *denominator : 0.0, count);
}

// A result that is not divided by the denominator, but not given without a valid one either.
__device__ inline double unless_nan(double value, double factor) {
  return std::isnan(factor) ? factor : value;
}

}  // namespace rlhf::cuda
