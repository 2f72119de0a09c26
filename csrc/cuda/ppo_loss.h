// Declarations of csrc/cuda/ppo_loss.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `denominator` is on the device, or null; `workspace` has workspace_size("ppo_loss", ...) entries.
void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const double* denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale, double* workspace);

}  // namespace rlhf::cuda
