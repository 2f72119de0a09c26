// Arguments that travel together from the checks of csrc/ops to either column.
#pragma once

#include <optional>

#include "tensor.h"

namespace rlhf {

struct AdvantageInputs {
  TensorView scores;
  TensorView logprobs;
  TensorView ref_logprobs;
  TensorView values;
  TensorView mask;
  double kl_coef;
  double gamma;
  double lam;
  bool whiten;
};

struct AdvantageOutputs {
  TensorView advantages;
  TensorView returns;
  TensorView rewards;
};

struct GatherInputs {
  TensorView logits;
  TensorView targets;
  std::optional<TensorView> mask;
  std::optional<TensorView> temperatures;
  double temperature;
};

struct GatherGradients {
  TensorView logprobs;
  TensorView entropy;
  TensorView logsumexp;
};

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

}  // namespace rlhf
