// The tanh form of gelu, written with a sigmoid: tanh(v) = 2 sigmoid(2 v) - 1, so that
//
//   y = x s(x (a + b x^2))        s(u) = 1 / (1 + exp(-u)),  a = 2 sqrt(2 / pi),  b = 0.044715 a
//   dy/dx = s + x s (1 - s) (a + 3 b x^2)
//
// Source: Hendrycks and Gimpel, arXiv:1606.08415. No difference of nearly equal numbers is taken
// where x < 0, as 1 + tanh is.
#pragma once

#include <cmath>

#include "math/host_device.h"

namespace rlhf::math {

constexpr double kGeluA = 1.5957691216057308;
constexpr double kGeluB = 0.044715 * kGeluA;

RLHF_HD double gelu_tanh(double x) { return x / (1 + std::exp(-x * (kGeluA + kGeluB * x * x))); }

RLHF_HD double gelu_tanh_slope(double x) {
  const double e = std::exp(-x * (kGeluA + kGeluB * x * x));
  const double s = 1 / (1 + e);
  // e overflows where s is 0, and so is the slope.
  return s == 0 ? 0 : s + x * s * (e * s) * (kGeluA + 3 * kGeluB * x * x);
}

}  // namespace rlhf::math
