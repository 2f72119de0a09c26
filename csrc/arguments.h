// Arguments that travel together from the checks of csrc/ops to either column.
#pragma once

#include <optional>
#include <vector>

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

// The second half of a layer: [M, D] rows, a layer norm, weights [D, F] and [F, D].
struct FeedForwardInputs {
  TensorView hidden;
  std::optional<TensorView> rows;  // int64 [N]: which; without it all
  TensorView norm_weight;
  TensorView norm_bias;
  TensorView up_weight;
  TensorView up_bias;
  TensorView down_weight;
  TensorView down_bias;
  double eps;
  bool lowered;  // products in bfloat16
};

struct FeedForwardGradients {
  TensorView hidden;
  TensorView norm_weight;
  TensorView norm_bias;
  TensorView up_weight;
  TensorView up_bias;
  TensorView down_weight;
  TensorView down_bias;
};

// The first half: [B, L, D], a layer norm, weights [D, 3 D] and [D, D].
struct SelfAttentionInputs {
  TensorView hidden;
  TensorView norm_weight;
  TensorView norm_bias;
  TensorView in_weight;
  TensorView in_bias;
  TensorView out_weight;
  TensorView out_bias;
  int64_t heads;
  double scale;
  double eps;
  bool lowered;  // products in bfloat16
};

struct SelfAttentionGradients {
  TensorView hidden;
  TensorView norm_weight;
  TensorView norm_bias;
  TensorView in_weight;
  TensorView in_bias;
  TensorView out_weight;
  TensorView out_bias;
};

// Of each layer: norm, W, w, O, o, norm, U, u, D, d; a norm is a weight and a bias. A matrix may
// lie in panels, [columns / 64, rows, 64].
constexpr int kLayerWeights = 12;

// Whole layers, [B, L, D] in and out.
struct DecoderLayersInputs {
  TensorView hidden;
  std::vector<TensorView> weights;
  std::vector<TensorView> keys;  // of each layer [B, H, R, D / H]; or none
  std::vector<TensorView> values;
  std::optional<TensorView> rows;    // int64 [N]: which go through the last feed-forward
  std::optional<TensorView> starts;  // int64 [B]: each sequence's first position
  int64_t used;                      // positions that keys and values hold
  int64_t heads;
  double scale;
  double eps;
  bool lowered;  // products of weights in bfloat16
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
