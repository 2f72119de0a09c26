// Four consecutive positions of a row, in one thread: what the scan of row_scan.cuh reads and
// writes.
#pragma once

#include "cuda/launch.cuh"
#include "math/advantages.h"

namespace rlhf::cuda {

constexpr int kScanEach = 4;

// Rewards are given, or shaped from log-probs.
struct ScanInputs {
  const float* rewards;
  const float* scores;
  const float* logprobs;
  const float* ref_logprobs;
  const float* values;
  const uint8_t* mask;
  int64_t count;
  int64_t length;
  double kl_coef;
  math::KlEstimator estimator;
  math::GaeRates<double> rates;
};

struct ScanOutputs {
  float* advantages;
  float* returns;
  float* rewards;  // with shaping
};

// Four positions; what is masked or past the row's end has zeros.
struct Stretch {
  double rewards[kScanEach];
  double values[kScanEach];
  unsigned keep;  // a bit each

  __device__ bool keeps(int e) const { return (keep >> e & 1u) != 0; }
  __device__ math::GaeMap<double> carry(const ScanInputs& in, int e) const {
    return math::gae_carry(rewards[e], values[e], in.rates);
  }
};

// Of which `left` are inside the row; all of them where `kWhole`.
template <bool kWhole>
__device__ void load_four(const float* from, int left, float (&to)[kScanEach]) {
  if constexpr (kWhole) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  } else {
    RLHF_UNROLL
    for (int e = 0; e < kScanEach; ++e) to[e] = e < left ? from[e] : 0.0f;
  }
}

__device__ inline void store_four(float* to, bool whole, int left, const float (&from)[kScanEach]) {
  if (whole) {
    *reinterpret_cast<float4*>(to) = {from[0], from[1], from[2], from[3]};
    return;
  }
  RLHF_UNROLL
  for (int e = 0; e < kScanEach; ++e) {
    if (e < left) to[e] = from[e];
  }
}

// Four positions as they lie in memory.
struct LoadedStretch {
  float first[kScanEach];   // rewards or log-probs
  float second[kScanEach];  // the reference's
  float values[kScanEach];
  uint32_t flags;  // a byte each

  template <bool kShape, bool kWhole>
  __device__ void load(const ScanInputs& in, int64_t start, int left) {
    load_four<kWhole>((kShape ? in.logprobs : in.rewards) + start, left, first);
    if (kShape) load_four<kWhole>(in.ref_logprobs + start, left, second);
    load_four<kWhole>(in.values + start, left, values);
    const uint8_t* mask = in.mask + start;
    if constexpr (kWhole) {
      memcpy(&flags, __builtin_assume_aligned(mask, 4), sizeof(flags));
    } else {
      flags = 0;
      RLHF_UNROLL
      for (int e = 0; e < kScanEach; ++e) flags |= e < left && mask[e] ? 1u << 8 * e : 0u;
    }
  }
};

template <bool kShape>
__device__ Stretch load_stretch(const ScanInputs& in, int64_t start, bool whole, int left) {
  LoadedStretch loaded;
  // One branch around all loads, so that none of them waits for another.
  if (whole) {
    loaded.load<kShape, true>(in, start, left);
  } else {
    loaded.load<kShape, false>(in, start, left);
  }
  Stretch out = {};
  RLHF_UNROLL
  for (int e = 0; e < kScanEach; ++e) {
    if ((loaded.flags >> 8 * e & 255u) == 0) continue;
    out.keep |= 1u << e;
    out.values[e] = loaded.values[e];
    out.rewards[e] =
        kShape ? math::shaped_reward<float>(in.estimator, loaded.first[e], loaded.second[e],
                                            static_cast<float>(in.kl_coef))
               : loaded.first[e];
  }
  return out;
}

}  // namespace rlhf::cuda
