// Declarations of csrc/cpu/feed_forward.cpp.
#pragma once

#include "arguments.h"

namespace rlhf::cpu {

void feed_forward(const FeedForwardInputs& inputs, const TensorView& out, const TensorView& inner);

void feed_forward_backward(const TensorView& grad_out, const FeedForwardInputs& inputs,
                           const TensorView& inner, const FeedForwardGradients& grads);

}  // namespace rlhf::cpu
