// Estimators of KL(policy || reference) from one token, d = logprob - ref_logprob:
//   k1 = d        k2 = d^2 / 2        k3 = expm1(-d) + d
// The exponential is limited (exp_pair.h). Source: http://joschu.net/blog/kl-approx.html
#pragma once

#include <cstdint>

#include "math/exp_pair.h"
#include "math/host_device.h"

namespace rlhf::math {

enum class KlEstimator : uint8_t { kK1, kK2, kK3 };

template <typename T>
RLHF_HD T token_kl(KlEstimator estimator, T logprob, T ref_logprob) {
  const T d = logprob - ref_logprob;
  if (estimator == KlEstimator::kK1) return d;
  if (estimator == KlEstimator::kK2) return T(0.5) * d * d;
  return exp_pair(-d).expm1 + d;
}

// d token_kl / d logprob; the derivative for ref_logprob is its negative.
template <typename T>
RLHF_HD T token_kl_gradient(KlEstimator estimator, T logprob, T ref_logprob) {
  const T d = logprob - ref_logprob;
  if (estimator == KlEstimator::kK1) return T(1);
  if (estimator == KlEstimator::kK2) return d;
  return -exp_pair(-d).expm1;
}

}  // namespace rlhf::math
