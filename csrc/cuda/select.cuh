// The lowest kept logit of a row, by a radix select of the whole block: 8 bits of the key per read.
//
// The histograms are of integers, so that atomics leave no order of additions in them.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/vector.cuh"
#include "math/sample.h"

namespace rlhf::cuda {

// What decides which entries are kept, for the whole block.
struct SelectShared {
  unsigned long long histogram[256];
  unsigned long long need;
  unsigned digit;
};

template <typename S>
struct SampledRow {
  const S* x;
  int vocab;
  float max;
  float scale;  // log2(e) / T

  __device__ float value(int64_t i) const { return to_float(x[i]); }
  __device__ float mass(float value) const { return exp2_fast((value - max) * scale); }
};

// In warp 0: the digit at which the histogram, from the highest bin down, reaches the need.
// Lane l looks at the bins 255 - 8 l to 248 - 8 l.
__device__ inline void pick_digit(unsigned long long need, double top_p, SelectShared* shared) {
  const int lane = lane_index(), first = 255 - 8 * lane;
  unsigned long long mine = 0;
  for (int bin = first; bin > first - 8; --bin) mine += shared->histogram[bin];
  unsigned long long upto = mine;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const unsigned long long other = __shfl_up_sync(kFullWarp, upto, offset);
    if (lane >= offset) upto += other;
  }
  if (need == 0) need = math::nucleus_need(top_p, __shfl_sync(kFullWarp, upto, kWarpSize - 1));
  const unsigned reached = __ballot_sync(kFullWarp, upto >= need);
  if (lane != __ffs(static_cast<int>(reached)) - 1) return;
  unsigned long long above = upto - mine;
  int bin = first;
  for (; bin > first - 7 && above + shared->histogram[bin] < need; --bin) {
    above += shared->histogram[bin];
  }
  shared->digit = static_cast<unsigned>(bin);
  shared->need = need - above;
}

// The key of the largest logit t for which the entries >= t, of those with a key >= lowest, weigh
// at least `need`; need 0 stands for top_p of what they weigh. All threads get it.
template <bool kMass, typename S>
__device__ uint32_t find_key(const SampledRow<S>& row, uint32_t lowest, unsigned long long need,
                             double top_p, SelectShared* shared) {
  uint32_t prefix = 0, decided = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = static_cast<int>(threadIdx.x); bin < 256; bin += static_cast<int>(blockDim.x)) {
      shared->histogram[bin] = 0;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) {
      const float x = row.value(i);
      const uint32_t key = math::order_key(x);
      if (key < lowest || (key & decided) != prefix) continue;
      const unsigned long long weight =
          kMass
              ? static_cast<unsigned long long>(row.mass(x) * static_cast<float>(math::kMassScale))
              : 1;
      if (weight > 0) atomicAdd(&shared->histogram[key >> shift & 255u], weight);
    }
    __syncthreads();
    if (warp_index() == 0) pick_digit(need, top_p, shared);
    __syncthreads();
    prefix |= shared->digit << shift;
    decided |= 255u << shift;
    need = shared->need;
  }
  return prefix;
}

}  // namespace rlhf::cuda
