// Declarations of csrc/cuda/ranking_loss.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

// `denominator` is on the device, or null; `workspace` has workspace_size("ranking_loss", ...)
// entries. Offsets and ranks are looked at here: wrong ones give NaN everywhere.
void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, bool count_ties, const double* denominator,
                  const TensorView& loss, const TensorView& stats, const TensorView& score_grad,
                  const TensorView& scale, double* workspace);

}  // namespace rlhf::cuda
