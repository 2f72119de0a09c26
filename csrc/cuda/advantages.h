// Declarations of csrc/cuda/advantages.cu.
#pragma once

#include "arguments.h"
#include "math/token_kl.h"

namespace rlhf::cuda {

// `workspace` is read for whitening only, and has workspace_size("advantages", ...) entries then.
void advantages(const AdvantageInputs& inputs, math::KlEstimator estimator,
                const AdvantageOutputs& outputs, double* workspace);

}  // namespace rlhf::cuda
