// decoder_layers: contract. It has no gradient, and no form on a GPU.
#include "cpu/decoder_layers.h"

#include <algorithm>

#include "ops.h"
#include "sublayer_checks.h"

namespace rlhf::ops {
namespace {

constexpr const char* kOp = "decoder_layers";

// An argument of one layer, for messages.
std::string named(const char* name, size_t layer) {
  return std::string(name) + "[" + std::to_string(layer) + "]";
}

void check_layer(const DecoderLayersInputs& inputs, size_t layer) {
  static constexpr const char* kNames[kLayerWeights] = {
      "norm_1 weight", "norm_1 bias", "in weight", "in bias", "out weight",  "out bias",
      "norm_2 weight", "norm_2 bias", "up weight", "up bias", "down weight", "down bias"};
  const TensorView* w = inputs.weights.data() + layer * kLayerWeights;
  const DType dtype = inputs.hidden.dtype;
  const int64_t width = inputs.hidden.shape[2];
  const auto name = [&](int at) {
    return "layer " + std::to_string(layer) + ", " + std::string(kNames[at]);
  };
  if (w[9].ndim != 1 || w[9].shape[0] < 1 || w[9].shape[0] % cpu::kWholeColumns != 0) {
    fail(kOp, name(9).c_str(),
         "must be [F], F a multiple of " + std::to_string(cpu::kWholeColumns) + ", got " +
             shape_text(w[9]));
  }
  const int64_t inner = w[9].shape[0];
  const auto vector = [&](int at, int64_t count) {
    check_vector(kOp, name(at).c_str(), w[at], count, dtype);
  };
  const auto matrix = [&](int at, int64_t in, int64_t out) {
    if (w[at].ndim != 3) return check_weight(kOp, name(at).c_str(), w[at], in, out, dtype);
    const int64_t panels = (out + cpu::kPanelColumns - 1) / cpu::kPanelColumns;
    const int64_t pairs = (in + cpu::kPairDepth - 1) / cpu::kPairDepth * cpu::kPairDepth / 2;
    check_dense(kOp, name(at).c_str(), w[at], inputs.lowered ? DType::kBFloat16 : dtype);
    check_shape(
        kOp, name(at).c_str(), w[at],
        {panels, inputs.lowered ? pairs : in, cpu::kPanelColumns * (inputs.lowered ? 2 : 1)});
  };
  for (int at : {0, 1, 6, 7}) vector(at, width);
  matrix(2, width, 3 * width);
  vector(3, 3 * width);
  matrix(4, width, width);
  vector(5, width);
  matrix(8, width, inner);
  vector(9, inner);
  matrix(10, inner, width);
  vector(11, width);
}

void check_cache(const DecoderLayersInputs& inputs, size_t layers) {
  if (inputs.keys.size() != inputs.values.size() ||
      (!inputs.keys.empty() && inputs.keys.size() != layers)) {
    fail(kOp, "cache",
         "must have keys and values of each of the " + std::to_string(layers) + " layers, got " +
             std::to_string(inputs.keys.size()) + " and " + std::to_string(inputs.values.size()));
  }
  const int64_t batch = inputs.hidden.shape[0], length = inputs.hidden.shape[1];
  const int64_t size = inputs.hidden.shape[2] / inputs.heads;
  if (inputs.used < 0 || (inputs.used > 0 && (inputs.keys.empty() || length != 1))) {
    fail(kOp, "used",
         "must be 0, or with a cache and one new position the positions it holds, got " +
             std::to_string(inputs.used));
  }
  for (size_t layer = 0; layer < inputs.keys.size(); ++layer) {
    const TensorView& keys = inputs.keys[layer];
    const std::string key = named("keys", layer), value = named("values", layer);
    if (keys.ndim != 4) {
      fail(kOp, key.c_str(), "must be [B, heads, room, D / heads], got " + shape_text(keys));
    }
    const int64_t room = inputs.keys[0].shape[2];
    if (room < length || inputs.used > room - length) {
      fail(kOp, key.c_str(),
           "must have room for " +
               std::to_string(static_cast<uint64_t>(inputs.used) + static_cast<uint64_t>(length)) +
               " positions, got " + shape_text(keys));
    }
    for (const auto& [name, view] : {std::pair(&key, &keys), {&value, &inputs.values[layer]}}) {
      check_dense(kOp, name->c_str(), *view, inputs.hidden.dtype);
      check_shape(kOp, name->c_str(), *view, {batch, inputs.heads, room, size});
    }
  }
}

// int64 numbers in [0, limit); ascending where `ascend`, no number twice.
void check_numbers(const char* argument, const TensorView& view, int64_t limit, bool ascend) {
  check_dense(kOp, argument, view, DType::kInt64);
  if (view.ndim != 1) fail(kOp, argument, "must be [N], got " + shape_text(view));
  const int64_t* numbers = view.as<int64_t>();
  for (int64_t i = 0; i < view.shape[0]; ++i) {
    if (numbers[i] >= 0 && numbers[i] < limit && !(ascend && i > 0 && numbers[i - 1] >= numbers[i]))
      continue;
    fail(kOp, argument,
         std::string("must be ") + (ascend ? "ascending numbers" : "numbers") + " from 0 to " +
             std::to_string(limit - 1) + "; entry " + std::to_string(i) + " is " +
             std::to_string(numbers[i]));
  }
}

}  // namespace

void decoder_layers(const DecoderLayersInputs& inputs, const TensorView& out) {
  check_hidden(kOp, inputs.hidden, 3);
  const int64_t batch = inputs.hidden.shape[0], length = inputs.hidden.shape[1];
  check_heads(kOp, inputs.hidden, inputs.heads);
  check_finite(kOp, "scale", inputs.scale, -1e30, 1e30, "finite");
  check_eps(kOp, inputs.eps);
  check_lowered(kOp, inputs.hidden, inputs.lowered);
  const size_t layers = inputs.weights.size() / kLayerWeights;
  if (layers == 0 || layers * kLayerWeights != inputs.weights.size()) {
    fail(kOp, "layers",
         "must be " + std::to_string(kLayerWeights) + " tensors for each of at least one, got " +
             std::to_string(inputs.weights.size()));
  }
  for (size_t layer = 0; layer < layers; ++layer) check_layer(inputs, layer);
  check_cache(inputs, layers);
  if (inputs.rows) check_numbers("rows", *inputs.rows, batch * length, true);
  if (inputs.starts) {
    check_numbers("starts", *inputs.starts, std::max<int64_t>(1, inputs.used + length), false);
    check_shape(kOp, "starts", *inputs.starts, {batch});
  }
  cpu::decoder_layers(inputs, out);
}

}  // namespace rlhf::ops
