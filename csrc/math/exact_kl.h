// Exact KL of one row, K = sum_v p (log p - log q), from logits x and y of p and q at temperature
// T.
//
// Summed as p (expm1(d) - d) with d = log q - log p, which adds sum p - sum q = 0: each term is
// then not negative and keeps fp32's full precision as p -> q. For |d| >= 1 the same is q - p - p
// d.
//   d K / d x_j = p_j (log p_j - log q_j - K) / T
// The vector form of the sum is in csrc/cpu/row_body.h (kl_term).
#pragma once

#include "math/ppo_loss_from_logits.h"

namespace rlhf::math {

// The coefficients of g K in p_j (a + b log p_j + c (log p_j - log q_j)) + d [j = target].
RLHF_HD RowCoefficients exact_kl_coefficients(double kl, double grad) {
  RowCoefficients k;
  k.add_exact_kl(grad, kl);
  return k;
}

}  // namespace rlhf::math
