// Declarations of csrc/cpu/gelu_tanh.cpp.
#pragma once

#include "tensor.h"

namespace rlhf::cpu {

void gelu_tanh(const TensorView& x, const TensorView& out);

void gelu_tanh_backward(const TensorView& grad_out, const TensorView& x, const TensorView& grad_x);

}  // namespace rlhf::cpu
