// Declarations of csrc/cpu/ranking_loss.cpp.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cpu {

// group_offsets are ascending from 0 to the number of scores: the caller has checked.
void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, bool count_ties,
                  std::optional<double> denominator, const TensorView& loss,
                  const TensorView& stats, const TensorView& score_grad, const TensorView& scale);

}  // namespace rlhf::cpu
