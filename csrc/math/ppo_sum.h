// The sums behind the policy loss and its statistics, shared by both forms of the loss.
#pragma once

#include <cmath>

#include "math/host_device.h"
#include "math/moments.h"
#include "math/ppo_loss.h"

namespace rlhf::math {

// A NaN enters and stays.
RLHF_HD double nan_max(double a, double b) { return b <= a || a != a ? a : b; }

struct PpoSum {
  double loss = 0;
  double logratio_squared = 0;
  double k3 = 0;
  double clipped = 0;
  double ratio_max = 0;
  double ratio_error = 0;  // max |ratio - 1|
  ShiftedSums ratios;      // added token by token
  Moments ratio;           // merged

  // `k3` estimates KL(old || policy) at this token.
  template <typename T>
  RLHF_HD void add(const PpoToken<T>& token, T k3_value) {
    loss += token.loss;
    logratio_squared += static_cast<double>(token.logratio) * token.logratio;
    k3 += k3_value;
    clipped += token.clipped;
    ratio_max = nan_max(ratio_max, token.ratio);
    ratio_error = nan_max(ratio_error, std::fabs(token.ratio - T(1)));
    ratios.add(token.ratio);
  }

  RLHF_HD void merge(const PpoSum& other) {
    loss += other.loss;
    logratio_squared += other.logratio_squared;
    k3 += other.k3;
    clipped += other.clipped;
    ratio_max = nan_max(ratio_max, other.ratio_max);
    ratio_error = nan_max(ratio_error, other.ratio_error);
    ratio = math::merge(ratio, math::merge(other.ratio, other.ratios.moments()));
  }
};

}  // namespace rlhf::math
