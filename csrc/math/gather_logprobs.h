// One row of logits x with temperature T: z = x / T, lse = log sum exp z, p = exp(z - lse).
//
//   logprob = z_y - lse          entropy H = lse - sum p z
//   d logprob / d z_j = [j = y] - p_j
//   d lse     / d z_j = p_j
//   d H       / d z_j = -p_j (log p_j + H)
//
// so that any combination of the three is p_j (a + b log p_j) + d [j = y].
#pragma once

#include "math/host_device.h"

namespace rlhf::math {

struct LogprobCoefficients {
  double a;
  double b;
  double d;
};

RLHF_HD LogprobCoefficients logprob_coefficients(double entropy, double grad_logprob,
                                                 double grad_entropy, double grad_logsumexp) {
  return {grad_logsumexp - grad_logprob - grad_entropy * entropy, -grad_entropy, grad_logprob};
}

}  // namespace rlhf::math
