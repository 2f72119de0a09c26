// Declarations of csrc/cpu/decoder_layers.cpp.
#pragma once

#include "arguments.h"

namespace rlhf::cpu {

void decoder_layers(const DecoderLayersInputs& inputs, const TensorView& out);

}  // namespace rlhf::cpu
