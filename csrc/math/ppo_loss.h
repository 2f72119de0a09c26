// Clipped policy loss of one token.
//
//   logratio = logprob - old          ratio = exp(logratio)
//   loss     = max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps))
//   d loss / d logprob = -A ratio where the unclipped branch is the larger or equal one, else 0
//
// The exponent is limited (bounded_exp.h); a NaN passes through every comparison.
// Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7, as a loss.
#pragma once

#include "math/bounded_exp.h"
#include "math/host_device.h"

namespace rlhf::math {

template <typename T>
struct PpoToken {
  T logratio;
  T ratio;
  T loss;
  T dlogprob;
  bool clipped;
};

// low = 1 - eps and high = 1 + eps, rounded once from fp64 by the caller.
template <typename T>
RLHF_HD PpoToken<T> ppo_token(T logprob, T old_logprob, T advantage, T low, T high) {
  const T logratio = logprob - old_logprob;
  const T ratio = bounded_exp(logratio);
  const T bounded = ratio < low ? low : (ratio > high ? high : ratio);
  const T unclipped = -advantage * ratio;
  const T clipped = -advantage * bounded;
  const bool use_clipped = clipped > unclipped;
  return {logratio, ratio, use_clipped ? clipped : unclipped, use_clipped ? T(0) : unclipped,
          use_clipped};
}

}  // namespace rlhf::math
