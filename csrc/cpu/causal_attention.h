// Declarations of csrc/cpu/causal_attention.cpp.
#pragma once

#include "tensor.h"

namespace rlhf::cpu {

void causal_attention(const TensorView& query, const TensorView& key, const TensorView& value,
                      double scale, const TensorView& out);

void causal_attention_backward(const TensorView& grad_out, const TensorView& query,
                               const TensorView& key, const TensorView& value, double scale,
                               const TensorView& grad_query, const TensorView& grad_key,
                               const TensorView& grad_value);

}  // namespace rlhf::cpu
