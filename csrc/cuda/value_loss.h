// Declarations of csrc/cuda/value_loss.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `denominator` is on the device, or null; `workspace` has workspace_size("value_loss", ...)
// entries.
void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, const double* denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale, double* workspace);

}  // namespace rlhf::cuda
