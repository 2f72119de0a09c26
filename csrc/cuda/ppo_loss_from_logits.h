// Declarations of csrc/cuda/ppo_loss_from_logits.cu.
#pragma once

#include <optional>

#include "math/token_kl.h"
#include "tensor.h"

namespace rlhf::cuda {

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
  const double* denominator;  // on the device; null: the count
  const double* ptx_denominator;
  double temperature;
  double cliprange;
  double entropy_coef;
  double kl_coef;
  double ptx_coef;
  math::KlEstimator estimator;
};

// With `inplace` the gradient of the loss replaces the logits. `workspace`: see workspace.h.
void ppo_loss_from_logits(const PolicyObjective& objective, bool inplace, const TensorView& loss,
                          const TensorView& stats, const TensorView& rows, double* workspace);

void ppo_loss_from_logits_backward(const TensorView& logits,
                                   const std::optional<TensorView>& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   const TensorView& upstream, const TensorView& grad_logits);

// grad *= upstream on the rows that count.
void ppo_loss_from_logits_scale(const TensorView& grad, const TensorView& rows,
                                const TensorView& upstream);

}  // namespace rlhf::cuda
