// Declarations of csrc/cuda/gather_logprobs.cu.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cuda {

struct GatherInputs {
  TensorView logits;
  TensorView targets;
  std::optional<TensorView> mask;
  std::optional<TensorView> temperatures;
  double temperature;
};

void gather_logprobs(const GatherInputs& inputs, const TensorView& logprobs,
                     const TensorView& entropy, const TensorView& logsumexp,
                     const TensorView& rows);

struct GatherGradients {
  TensorView logprobs;
  TensorView entropy;
  TensorView logsumexp;
};

void gather_logprobs_backward(const GatherGradients& grads, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits);

}  // namespace rlhf::cuda
