// Declarations of csrc/cpu/loss_gradient.cpp.
#pragma once

#include "tensor.h"

namespace rlhf::cpu {

void loss_gradient(const TensorView& grad, double factor, const TensorView& out);

}  // namespace rlhf::cpu
