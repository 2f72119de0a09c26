// Every native op: inputs, scalars, then the outputs that the caller allocated.
// Each function checks its arguments and throws std::invalid_argument naming the bad one.
#pragma once

#include <optional>
#include <string>

#include "tensor.h"

namespace rlhf::ops {

using OptionalView = std::optional<TensorView>;

// token_kl
void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              const std::string& estimator, const TensorView& out);
void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, const std::string& estimator,
                       const TensorView& grad_logprobs);

}  // namespace rlhf::ops
