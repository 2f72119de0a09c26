// Declarations of csrc/cuda/gae.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `workspace` is read for whitening only, and has workspace_size("gae", ...) entries then.
void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns, double* workspace);

}  // namespace rlhf::cuda
