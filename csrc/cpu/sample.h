// Declarations of csrc/cpu/sample.cpp.
#pragma once

#include "arguments.h"
#include "cpu/rows.h"
#include "tensor.h"

namespace rlhf::cpu {

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
