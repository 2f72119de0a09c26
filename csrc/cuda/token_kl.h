// Declarations of csrc/cuda/token_kl.cu.
#pragma once

#include "math/token_kl.h"
#include "tensor.h"

namespace rlhf::cuda {

void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              math::KlEstimator estimator, const TensorView& out);

void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, math::KlEstimator estimator,
                       const TensorView& grad_logprobs);

}  // namespace rlhf::cuda
