// Reward of one response token, with the penalty for leaving the reference model:
//
//   r_t = -kl_coef * kl_t  (+ score at the row's last unmasked token)
//
// kl_t is one of the estimators of token_kl.h; the paper's is k1.
// Source: InstructGPT (arXiv:2203.02155), section 3.5, equation 2, spread over the tokens.
#pragma once

#include "math/host_device.h"
#include "math/token_kl.h"

namespace rlhf::math {

template <typename T>
RLHF_HD T shaped_reward(KlEstimator estimator, T logprob, T ref_logprob, T kl_coef) {
  return -kl_coef * token_kl(estimator, logprob, ref_logprob);
}

}  // namespace rlhf::math
