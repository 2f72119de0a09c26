// Declarations of csrc/cpu/ppo_loss.cpp.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cpu {

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              std::optional<double> denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale);

}  // namespace rlhf::cpu
