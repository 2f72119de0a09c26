// Eight fp64 sums at once over a warp and a block, in a fixed order and with few shuffles: what
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

// The warp's sums; lane l gets that of index l / 4. Each exchange halves what a lane still holds.
__device__ inline double warp_totals(double (&sums)[kBlockSums]) {
  RLHF_UNROLL
  for (int half = kBlockSums / 2; half > 0; half /= 2) {
    const bool upper = (lane_index() & 4 * half) != 0;
    RLHF_UNROLL
    for (int k = 0; k < half; ++k) {
      const double sent = upper ? sums[k] : sums[k + half];
      const double kept = upper ? sums[k + half] : sums[k];
      sums[k] = kept + __shfl_xor_sync(kFullWarp, sent, 4 * half);
    }
  }
  const double pair = sums[0] + __shfl_xor_sync(kFullWarp, sums[0], 2);
  return pair + __shfl_xor_sync(kFullWarp, pair, 1);
}

// By one warp: the sum of `count` rows, at most kMost; lane l gets that of column l % 8.
template <int kMost>
__device__ double column_sums(const double (*rows)[kBlockSums], int count) {
  double sum = 0;
  RLHF_UNROLL
  for (int i = 0; i < kMost / 4; ++i) {
    const int row = lane_index() / kBlockSums + 4 * i;
    if (row < count) sum += rows[row][lane_index() % kBlockSums];
  }
  sum += __shfl_xor_sync(kFullWarp, sum, 8);
  return sum + __shfl_xor_sync(kFullWarp, sum, 16);
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
