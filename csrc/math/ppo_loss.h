// Clipped policy loss of one token.
//
//   logratio = logprob - old          ratio = exp(logratio)
//   loss     = max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps))
//   d loss / d logprob = -A ratio where the unclipped branch is the larger or equal one, else 0
//   k3       = expm1(logratio) - logratio: KL(old || policy), as token_kl.h has it
//
// The exponent is limited (exp_pair.h); a NaN passes through every comparison.
// Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7, as a loss.
#pragma once

#include "math/exp_pair.h"
#include "math/host_device.h"

namespace rlhf::math {

template <typename T>
struct PpoToken {
  T logratio;
  T ratio;
  T k3;
  T loss;
  T dlogprob;
  T clipped;  // 1 where the clipped branch is the larger one, else 0
};

// low = 1 - eps and high = 1 + eps, rounded once from fp64 by the caller.
template <typename T>
RLHF_HD PpoToken<T> ppo_token(T logprob, T old_logprob, T advantage, T low, T high) {
  const T logratio = logprob - old_logprob;
  const ExpPair<T> pair = exp_pair(logratio);
  const T ratio = pair.exp;
  const T raised = ratio < low ? low : ratio;
  const T bounded = raised > high ? high : raised;
  const T unclipped = -advantage * ratio;
  const T clipped = -advantage * bounded;
  const bool use_clipped = clipped > unclipped;
  return {logratio,
          ratio,
          pair.expm1 - logratio,
          use_clipped ? clipped : unclipped,
          use_clipped ? T(0) : unclipped,
          use_clipped ? T(1) : T(0)};
}

}  // namespace rlhf::math
