// Declarations of csrc/cpu/shaped_rewards.cpp.
#pragma once

#include "math/token_kl.h"
#include "tensor.h"

namespace rlhf::cpu {

void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    math::KlEstimator estimator, const TensorView& rewards);

}  // namespace rlhf::cpu
