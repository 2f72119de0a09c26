// Clipped value loss of one token, without the mean and without vf_coef.
//
//   clipped = clip(value, old - c, old + c)
//   loss    = 0.5 max((value - R)^2, (clipped - R)^2)
//   d loss / d value = value - R where the unclipped branch is the larger or equal one, else 0
//
// Source: Stiennon et al. 2020 (arXiv:2009.01325), appendix B, and the code of Ziegler et al. 2019.
#pragma once

#include "math/host_device.h"
#include "math/moments.h"

namespace rlhf::math {

template <typename T>
struct ValueToken {
  T loss;
  T dvalue;
  T squared_error;
  T clipped;  // 1 where the clipped branch is the larger one, else 0
};

template <typename T>
RLHF_HD ValueToken<T> value_token(T value, T old_value, T target, T cliprange) {
  const T low = old_value - cliprange;
  const T high = old_value + cliprange;
  const T raised = value < low ? low : value;
  const T bounded = raised > high ? high : raised;
  const T error = value - target;
  const T bounded_error = bounded - target;
  const T squared = error * error;
  const T bounded_squared = bounded_error * bounded_error;
  const bool use_clipped = bounded_squared > squared;
  return {T(0.5) * (use_clipped ? bounded_squared : squared), use_clipped ? T(0) : error, squared,
          use_clipped ? T(1) : T(0)};
}

// The sums behind the loss and its statistics.
struct ValueSum {
  double loss = 0;
  double squared_error = 0;
  double clipped = 0;
  Moments value;
  Moments target;

  RLHF_HD void merge(const ValueSum& other) {
    loss += other.loss;
    squared_error += other.squared_error;
    clipped += other.clipped;
    value = math::merge(value, other.value);
    target = math::merge(target, other.target);
  }
};

}  // namespace rlhf::math
