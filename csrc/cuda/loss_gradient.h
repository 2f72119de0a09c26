// Declarations of csrc/cuda/loss_gradient.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `upstream` and `scale` are on the device.
void loss_gradient(const TensorView& grad, const TensorView& upstream, const TensorView& scale,
                   const TensorView& out);

}  // namespace rlhf::cuda
