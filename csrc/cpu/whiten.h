// Declarations of csrc/cpu/whiten.cpp.
#pragma once

#include "tensor.h"

namespace rlhf::cpu {

// `out` may be the memory of `x`.
void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out);

}  // namespace rlhf::cpu
