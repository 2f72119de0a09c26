// Declarations of csrc/cpu/self_attention.cpp.
#pragma once

#include "arguments.h"

namespace rlhf::cpu {

void self_attention(const SelfAttentionInputs& inputs, const TensorView& out,
                    const TensorView& states, const TensorView& attended);

void self_attention_backward(const TensorView& grad_out, const SelfAttentionInputs& inputs,
                             const TensorView& states, const TensorView& attended,
                             const SelfAttentionGradients& grads);

}  // namespace rlhf::cpu
