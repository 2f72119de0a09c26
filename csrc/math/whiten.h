// Whitening of one entry: y = (x - mean) rsqrt(var + 1e-8), plus the mean when it is not shifted.
//
// The variance is the biased one. Source: the code of Ziegler et al. 2019 (lm-human-preferences).
#pragma once

#include <cmath>

#include "math/host_device.h"
#include "math/moments.h"

namespace rlhf::math {

constexpr double kWhitenEpsilon = 1e-8;

struct MomentSum {
  Moments moments;

  RLHF_HD void merge(const MomentSum& other) { moments = math::merge(moments, other.moments); }
};

struct WhitenScale {
  double mean;
  double factor;
  double offset;
};

RLHF_HD WhitenScale whiten_scale(double mean, double variance, bool shift_mean) {
  return {mean, 1.0 / std::sqrt(variance + kWhitenEpsilon), shift_mean ? 0.0 : mean};
}

RLHF_HD double whiten_entry(double x, const WhitenScale& scale) {
  return (x - scale.mean) * scale.factor + scale.offset;
}

}  // namespace rlhf::math
