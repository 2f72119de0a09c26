// exp with its argument limited to kMaxExponent nats.
//
// exp(80) = 5.5e34 is finite in fp32, exp(89) is not: without the limit one token whose
// log-probability moved by 100 nats makes the loss inf and 0 * inf makes it NaN.
#pragma once

#include <cmath>

#include "math/host_device.h"

namespace rlhf::math {

constexpr double kMaxExponent = 80.0;

template <typename T>
RLHF_HD T bounded_exp(T x) {
  return std::exp(x > T(kMaxExponent) ? T(kMaxExponent) : x);
}

template <typename T>
RLHF_HD T bounded_expm1(T x) {
  return std::expm1(x > T(kMaxExponent) ? T(kMaxExponent) : x);
}

}  // namespace rlhf::math
