// Declarations of csrc/cuda/exact_kl.cu.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cuda {

void exact_kl(const TensorView& logits, const TensorView& ref_logits,
              const std::optional<TensorView>& mask, const std::optional<TensorView>& temperatures,
              double temperature, const TensorView& kl, const TensorView& rows);

void exact_kl_backward(const TensorView& grad_kl, const TensorView& logits,
                       const TensorView& ref_logits, const TensorView& kl, const TensorView& rows,
                       const TensorView& grad_logits);

}  // namespace rlhf::cuda
