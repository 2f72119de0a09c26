// Declarations of csrc/cuda/sample.cu.
#pragma once

#include "arguments.h"
#include "tensor.h"

namespace rlhf::cuda {

// A temperature below the least one that the contract allows gives token -1 and NaN.
void sample(const SampleInputs& inputs, const SampleOutputs& outputs);

}  // namespace rlhf::cuda
