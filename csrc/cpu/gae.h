// Declarations of csrc/cpu/gae.cpp.
#pragma once

#include "tensor.h"

namespace rlhf::cpu {

void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns);

}  // namespace rlhf::cpu
