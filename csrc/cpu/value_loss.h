// Declarations of csrc/cpu/value_loss.cpp.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cpu {

void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, std::optional<double> denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale);

}  // namespace rlhf::cpu
