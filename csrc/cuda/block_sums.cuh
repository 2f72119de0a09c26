// Several fp64 sums at once over a warp and a block, in a fixed order and with few shuffles: what
// kernels of some microseconds merge with. reduce.cuh merges any struct, and takes longer.
#pragma once

#include "cuda/launch.cuh"

namespace rlhf::cuda {

constexpr int kBlockSums = 8;
constexpr int kMostBlockWarps = 32;

struct BlockSums {
  double warps[kMostBlockWarps][kBlockSums];
  double totals[kBlockSums];
};

// The warp's sums of 2, 4 or 8 values; lane l gets that of index l / (32 / kCount). Each exchange
// halves what a lane still holds.
template <int kCount>
__device__ double warp_totals(double (&sums)[kCount]) {
  int offset = kWarpSize / 2;
  RLHF_UNROLL
  for (int half = kCount / 2; half > 0; half /= 2, offset /= 2) {
    const bool upper = (lane_index() & offset) != 0;
    RLHF_UNROLL
    for (int k = 0; k < half; ++k) {
      const double sent = upper ? sums[k] : sums[k + half];
      const double kept = upper ? sums[k + half] : sums[k];
      sums[k] = kept + __shfl_xor_sync(kFullWarp, sent, offset);
    }
  }
  double total = sums[0];
  RLHF_UNROLL
  for (; offset > 0; offset /= 2) total += __shfl_xor_sync(kFullWarp, total, offset);
  return total;
}

// By one warp: the sum of `value` over the lanes l, l + kCount, l + 2 kCount and so on.
template <int kCount>
__device__ double strided_sum(double value) {
  RLHF_UNROLL
  for (int offset = kCount; offset < kWarpSize; offset *= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

// By one warp: the sum of `count` rows, at most kMost; lane l gets that of column l % kCount.
template <int kMost, int kCount>
__device__ double column_sums(const double (*rows)[kCount], int count) {
  constexpr int kStep = kWarpSize / kCount;
  double sum = 0;
  RLHF_UNROLL
  for (int i = 0; i < kMost / kStep; ++i) {
    const int row = lane_index() / kCount + kStep * i;
    if (row < count) sum += rows[row][lane_index() % kCount];
  }
  return strided_sum<kCount>(sum);
}

// Adds up all threads of the block. True in the thread that has the result.
__device__ inline bool merge_block(double (&sums)[kBlockSums], BlockSums& shared) {
  const int lane = lane_index();
  const double sum = warp_totals(sums);
  if (lane % 4 == 0) shared.warps[warp_index()][lane / 4] = sum;
  __syncthreads();
  if (warp_index() != 0) return false;
  const double total = column_sums<kMostBlockWarps>(shared.warps, warp_count());
  if (lane < kBlockSums) shared.totals[lane] = total;
  __syncwarp();
  RLHF_UNROLL
  for (int k = 0; k < kBlockSums; ++k) sums[k] = shared.totals[k];
  return lane == 0;
}

}  // namespace rlhf::cuda
