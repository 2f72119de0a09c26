// Declarations of csrc/cuda/sample.cu.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf::cuda {

struct SampleInputs {
  TensorView logits;
  TensorView row_ids;
  TensorView positions;
  std::optional<TensorView> temperatures;
  double temperature;
  int64_t seed;
  int64_t top_k;  // 0: off
  double top_p;   // 1: off
};

struct SampleOutputs {
  TensorView tokens;
  TensorView logprobs;
  TensorView truncated_logprobs;
  TensorView entropy;
};

// A temperature below the least one that the contract allows gives token -1 and NaN.
void sample(const SampleInputs& inputs, const SampleOutputs& outputs);

}  // namespace rlhf::cuda
