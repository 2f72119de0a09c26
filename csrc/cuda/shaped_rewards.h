// Declarations of csrc/cuda/shaped_rewards.cu.
#pragma once

#include "math/token_kl.h"
#include "tensor.h"

namespace rlhf::cuda {

void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    math::KlEstimator estimator, const TensorView& rewards);

}  // namespace rlhf::cuda
