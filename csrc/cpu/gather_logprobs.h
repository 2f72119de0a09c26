// Declarations of csrc/cpu/gather_logprobs.cpp.
#pragma once

#include "arguments.h"
#include "tensor.h"

namespace rlhf::cpu {

void gather_logprobs(const GatherInputs& inputs, const TensorView& logprobs,
                     const TensorView& entropy, const TensorView& logsumexp,
                     const TensorView& rows);

void gather_logprobs_backward(const GatherGradients& grads, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits);

}  // namespace rlhf::cpu
