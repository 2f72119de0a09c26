// Declarations of csrc/cpu/advantages.cpp.
#pragma once

#include "arguments.h"
#include "math/token_kl.h"

namespace rlhf::cpu {

void advantages(const AdvantageInputs& inputs, math::KlEstimator estimator,
                const AdvantageOutputs& outputs);

}  // namespace rlhf::cpu
