// The policy objective of one row of logits, and its gradient with respect to them.
//
//   loss = mean over policy rows of  L_ppo - entropy_coef H + kl_coef K
//        + ptx_coef * mean over ptx rows of -logprob
//
// with L_ppo of ppo_loss.h, and K either an estimate from the token's log-probs (token_kl.h) or the
// exact sum_v p (log p - log q). Every term's gradient has the form
//   d loss / d x_j = (p_j (a + b log p_j + c (log p_j - log q_j)) + d [j = target]) / T
// so the four numbers of a row add up over its terms:
//   term              a           b   c   d
//   g logprob        -g                   g
//   e H              -e H        -e
//   k K (exact)      -k K             k
#pragma once

#include "math/host_device.h"

namespace rlhf::math {

// Each weight already holds its coefficient, its sign in the loss and 1 / denominator.
struct ObjectiveWeights {
  double policy;
  double entropy;
  double kl;
  double ptx;
};

struct RowCoefficients {
  double a = 0;
  double b = 0;
  double c = 0;
  double d = 0;

  RLHF_HD void add_logprob(double weight) {
    a -= weight;
    d += weight;
  }
  RLHF_HD void add_entropy(double weight, double entropy) {
    if (weight == 0) return;
    a -= weight * entropy;
    b -= weight;
  }
  RLHF_HD void add_exact_kl(double weight, double kl) {
    if (weight == 0) return;
    a -= weight * kl;
    c += weight;
  }
};

}  // namespace rlhf::math
