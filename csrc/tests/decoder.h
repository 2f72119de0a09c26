// What the tests of decoder_layers share: models, their caches, and their truth by the formulas.
#pragma once

#include <array>

#include "check.h"
#include "math/decoder_layers.h"
#include "ops.h"
#include "sublayer.h"

namespace rlhf::test {

constexpr double kEps = 1e-3, kScale = 0.7;
constexpr int kWeights = kLayerWeights;

// How a layer's matrices lie.
enum class Lay { kByRow, kTurned, kPanels };

struct Size {
  int64_t in, out;  // of a matrix; `in` is 0 for the `out` numbers of a vector
  int64_t count() const { return std::max<int64_t>(in, 1) * out; }
};

// What of a model does not depend on its numbers.
struct Shape {
  int64_t batch, length, width, inner, heads;
  int64_t layers = 2;
  int64_t room = 0;      // of caches; 0: none
  bool lowered = false;  // products in bfloat16

  int64_t rows() const { return batch * length; }
  int64_t size() const { return width / heads; }
  // Layers differ in their inner columns.
  int64_t inner_of(int64_t layer) const { return inner + 16 * layer; }
  Size of(int64_t layer, int at) const {
    const int64_t f = inner_of(layer);
    const Size sizes[kWeights] = {{0, width},     {0, width}, {width, 3 * width}, {0, 3 * width},
                                  {width, width}, {0, width}, {0, width},         {0, width},
                                  {width, f},     {0, f},     {f, width},         {0, width}};
    return sizes[at];
  }
};

// As csrc/cpu/sublayer.h says: 64 columns at a time, the last ones filled up with zeros.
template <typename T>
std::vector<T> lay_panels(const std::vector<T>& data, const Size& size) {
  std::vector<T> laid((size.out + 63) / 64 * size.in * 64);
  for (int64_t k = 0; k < size.in; ++k) {
    for (int64_t j = 0; j < size.out; ++j) {
      laid[(j / 64 * size.in + k) * 64 + j % 64] = data[k * size.out + j];
    }
  }
  return laid;
}

template <typename T>
struct Model : Shape {
  Lay lay;
  std::vector<T> hidden;
  std::vector<std::array<std::vector<T>, kWeights>> weights, laid;
  std::vector<int64_t> starts, rows_fed;  // empty: none given
  std::vector<Written<T>> keys, values;   // [B, H, R, D / H]
  Written<T> result;

  explicit Model(const Shape& shape, Lay lay = Lay::kByRow)
      : Shape(shape),
        lay(lay),
        hidden(make<T>(rows() * width, 1, 2, 0.5)),
        weights(layers),
        laid(layers),
        result(rows() * width) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int at = 0; at < kWeights; ++at) {
        const Size size = of(layer, at);
        const double scale = size.in ? 2 / std::sqrt(size.in) : 0.5;
        const bool of_norm = at == 0 || at == 6;
        const int seed = static_cast<int>(10 + layer * kWeights + at);
        weights[layer][at] = make<T>(size.count(), seed, scale, of_norm ? 1 : 0);
      }
      if (room == 0) continue;
      keys.emplace_back(batch * room * width);
      values.emplace_back(batch * room * width);
    }
  }

  TensorView weight_view(int64_t layer, int at) {
    const Size size = of(layer, at);
    std::vector<T>& to = laid[layer][at] = weights[layer][at];
    if (size.in == 0) return view_of(to);
    if (lay == Lay::kPanels) {
      to = lay_panels(to, size);
      return view_of(to.data(), {(size.out + 63) / 64, size.in, 64});
    }
    if (lay == Lay::kTurned) to = turn_matrix(to, size.in, size.out);
    return matrix_view(to.data(), size.in, size.out, lay == Lay::kTurned);
  }
  TensorView cache_view(Written<T>& cache) {
    return view_of(cache.data(), {batch, heads, room, size()});
  }
  TensorView result_view() { return view_of(result.data(), {batch, length, width}); }

  // `used` positions are in the caches.
  DecoderLayersInputs inputs(int64_t used = 0) {
    DecoderLayersInputs made;
    made.hidden = view_of(hidden.data(), {batch, length, width});
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int at = 0; at < kWeights; ++at) made.weights.push_back(weight_view(layer, at));
    }
    for (Written<T>& cache : keys) made.keys.push_back(cache_view(cache));
    for (Written<T>& cache : values) made.values.push_back(cache_view(cache));
    if (!starts.empty()) made.starts = view_of(starts);
    if (!rows_fed.empty()) made.rows = view_of(rows_fed);
    made.used = used;
    made.heads = heads;
    made.scale = kScale;
    made.eps = kEps;
    made.lowered = lowered;
    return made;
  }
  void run(int64_t used = 0) { ops::decoder_layers(inputs(used), result_view()); }

  // Positions [0, prompt) at once, the others one after the other; the caches are this model's.
  std::vector<T> generate(int64_t prompt) {
    std::vector<T> found(hidden.size());
    for (int64_t used = 0, next = prompt; used < length; used = next, next = used + 1) {
      Shape part = *this;
      part.length = next - used;
      Model<T> now(part, lay);
      now.starts = starts;
      std::swap(now.keys, keys);
      std::swap(now.values, values);
      const auto each = [&](const auto& copy) {
        for (int64_t b = 0; b < batch; ++b) {
          copy(((b * length) + used) * width, b * part.length * width, part.length * width);
        }
      };
      each([&](int64_t at, int64_t own, int64_t count) {
        std::copy_n(hidden.begin() + at, count, now.hidden.begin() + own);
      });
      now.run(used);
      const std::vector<T> made = now.result.read();
      each([&](int64_t at, int64_t own, int64_t count) {
        std::copy_n(made.begin() + own, count, found.begin() + at);
      });
      std::swap(now.keys, keys);
      std::swap(now.values, values);
    }
    return found;
  }
};

using Wide = std::array<std::vector<double>, kWeights>;

inline math::DecoderLayerWeights pointers(const Shape& shape, const Wide& w, int64_t inner) {
  return {{w[0].data(), w[1].data(), w[2].data(), w[3].data(), w[4].data(), w[5].data(),
           shape.width, shape.heads, kScale, kEps},
          {w[6].data(), w[7].data(), w[8].data(), w[9].data(), w[10].data(), w[11].data(),
           shape.width, inner, kEps}};
}

// Rows [L, D] of one sequence through the first half of a layer; returns its states [L, 3 D].
inline std::vector<double> attend(const Shape& shape, const Wide& w, int64_t length, double* x) {
  const int64_t width = shape.width, size = shape.size();
  const math::SelfAttentionWeights weights = pointers(shape, w, 0).first;
  std::vector<double> normalized(width), states(length * 3 * width), seen(length * width);
  for (int64_t i = 0; i < length; ++i) {
    math::layer_norm(x + i * width, w[0].data(), w[1].data(), width, kEps, normalized.data());
    math::affine(normalized.data(), w[2].data(), w[3].data(), width, 3 * width,
                 states.data() + i * 3 * width);
  }
  std::vector<double> parts(3 * length * size), shares(length), added(width);
  for (int64_t head = 0; head < shape.heads; ++head) {
    math::head_states(states.data(), weights, length, head, parts.data());
    for (int64_t i = 0; i < length; ++i) {
      const double *queries = parts.data(), *keys = queries + length * size;
      math::attend_one(queries + i * size, keys, keys + length * size, size, i + 1, kScale,
                       shares.data(), seen.data() + i * width + head * size);
    }
  }
  for (int64_t i = 0; i < length; ++i) {
    math::affine(seen.data() + i * width, w[4].data(), w[5].data(), width, width, added.data());
    for (int64_t j = 0; j < width; ++j) x[i * width + j] += added[j];
  }
  return states;
}

// One row through the second half.
inline void feed(const Shape& shape, const Wide& w, int64_t inner, double* x) {
  const math::FeedForwardWeights weights = pointers(shape, w, inner).second;
  std::vector<double> normalized(shape.width), active(inner), out(shape.width);
  math::feed_forward(x, weights, normalized.data(), active.data(), out.data());
  std::copy(out.begin(), out.end(), x);
}

// By the formulas, in float64: the result, and the states [B L, 3 D] of each layer. Rows before a
// sequence's start are NaN.
struct Truth {
  std::vector<double> result;
  std::vector<std::vector<double>> states;

  template <typename T>
  explicit Truth(const Model<T>& model)
      : result(widen(model.hidden)),
        states(model.layers, std::vector<double>(model.rows() * 3 * model.width, NAN)) {
    const int64_t width = model.width;
    const std::vector<int64_t>& fed = model.rows_fed;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      Wide w;
      for (int at = 0; at < kWeights; ++at) w[at] = widen(model.weights[layer][at]);
      for (int64_t b = 0; b < model.batch; ++b) {
        const int64_t start = model.starts.empty() ? 0 : model.starts[b];
        const int64_t first = b * model.length + start, end = (b + 1) * model.length;
        const auto found = attend(model, w, end - first, result.data() + first * width);
        std::copy(found.begin(), found.end(), states[layer].begin() + first * 3 * width);
        const bool all = fed.empty() || layer + 1 < model.layers;
        for (int64_t row = first; row < end; ++row) {
          if (!all && std::find(fed.begin(), fed.end(), row) == fed.end()) continue;
          feed(model, w, model.inner_of(layer), result.data() + row * width);
        }
        std::fill_n(result.begin() + (first - start) * width, start * width, NAN);
      }
    }
  }
};

}  // namespace rlhf::test
