// Declarations of csrc/cpu/sample.cpp.
#pragma once

#include <optional>

#include "cpu/rows.h"
#include "tensor.h"

namespace rlhf::cpu {

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

void sample(const SampleInputs& inputs, const SampleOutputs& outputs);

// One row at a given u in [0, 1). token is -1 and the rest NaN where the row has no distribution.
struct RowSample {
  int64_t token;
  double logprob;
  double truncated_logprob;
  double entropy;
};
RowSample sample_row(DType dtype, const RowArgs& args, int64_t top_k, double top_p, double u);

}  // namespace rlhf::cpu
