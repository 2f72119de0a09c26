// Declarations of csrc/cuda/read_probe.cu.
#pragma once

#include "tensor.h"

namespace rlhf::cuda {

void read_probe(const TensorView& tensor, const TensorView& out);

}  // namespace rlhf::cuda
