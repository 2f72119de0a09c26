// Declarations of csrc/cuda/whiten.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `out` may be `x`; `workspace` has workspace_size("whiten", ...) entries.
void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out,
            double* workspace);

}  // namespace rlhf::cuda
