// Declarations of csrc/cpu/ppo_loss_from_logits.cpp.
#pragma once

#include <optional>

#include "math/token_kl.h"
#include "tensor.h"

namespace rlhf::cpu {

struct PolicyObjective {
  TensorView logits;
  TensorView targets;
  TensorView old_logprobs;
  TensorView advantages;
  TensorView mask;
  std::optional<TensorView> ref_logprobs;
  std::optional<TensorView> ref_logits;
  std::optional<TensorView> ptx_mask;
  std::optional<TensorView> temperatures;
  std::optional<double> denominator;
  std::optional<double> ptx_denominator;
  double temperature;
  double cliprange;
  double entropy_coef;
  double kl_coef;
  double ptx_coef;
  math::KlEstimator estimator;
};

// policy_loss, approxkl, approxkl_k3, clipfrac, ratio_mean, ratio_var, ratio_max, ratio_error,
// entropy, kl, ptx_loss, ptx_entropy.
constexpr int64_t kObjectiveStats = 12;

// With `inplace` the gradient of the loss replaces the logits.
void ppo_loss_from_logits(const PolicyObjective& objective, bool inplace, const TensorView& loss,
                          const TensorView& stats, const TensorView& rows);

void ppo_loss_from_logits_backward(const TensorView& logits,
                                   const std::optional<TensorView>& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   double upstream, const TensorView& grad_logits);

// grad *= upstream on the rows that count.
void ppo_loss_from_logits_scale(const TensorView& grad, const TensorView& rows, double upstream);

}  // namespace rlhf::cpu
