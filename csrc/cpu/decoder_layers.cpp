// decoder_layers on the CPU: all layers of a model, without a gradient. Sequences depend on no
// other, so a thread takes its share of them through every layer and meets the others once, when
// all weights lie in panels. Some sequences at a time go through a layer, from its first norm to
// its last sum; nothing of them is kept but what caches are to hold.
#include "cpu/decoder_layers.h"

#include "cpu/decoder_parts.h"
#include "math/gelu_tanh.h"

namespace rlhf::cpu {
namespace {

template <typename T>
struct Own;

template <typename T>
struct Decoder {
  Decoder(const DecoderLayersInputs& inputs, T* out);
  void run();
  // Sequences [begin, end) through one layer.
  void attend(const Layer<T>& layer, int64_t begin, int64_t end, const Own<T>& own) const;
  void feed(const Layer<T>& layer, const int64_t* chosen, int64_t begin, int64_t count,
            const Own<T>& own) const;
  void feed_last(const Layer<T>& layer, int64_t begin, int64_t end, const Own<T>& own) const;
  void attend_sequence(const Layer<T>& layer, int64_t sequence, const T* states, T* attended,
                       T* scratch) const;
  void remember(const Layer<T>& layer, int64_t sequence, const T* states) const;

  // One head of one sequence of `count` positions, whose states begin at `states`.
  AttentionArgs args_of(const T* states, int64_t count, int64_t head, T* attended,
                        T* scratch) const {
    AttentionArgs args = {};
    args.size = args.value_size = size;
    args.scale = scale;
    args.heads = 1;
    args.length = count;
    args.query = states + head * size;
    args.key = states + width + head * size;
    args.value = states + 2 * width + head * size;
    args.query_row = args.key_row = args.value_row = 3 * width;
    args.out = attended + head * size;
    args.out_row = width;
    args.scratch = scratch;
    return args;
  }
  int64_t scratch_items() const {
    const int64_t together = functions.attention_scratch(args_of(nullptr, length, 0, nullptr, {}));
    return std::max(together, panel_items(1, used + length));
  }
  int64_t left_items() const {
    return precision.left_items<T>(step * length, std::max(width, inner));
  }
  int64_t start_of(int64_t sequence) const { return starts ? starts[sequence] : 0; }

  Precision precision;
  const RowFunctions& functions;
  const T* hidden;
  T* result;
  int64_t batch, length, width, inner;  // B, L, D, F
  int64_t heads, size;                  // H, D / H
  int64_t used, room;                   // positions that caches hold, and can hold
  double scale;
  const int64_t* rows;  // of the last feed-forward, ascending
  int64_t row_count;    // -1: all
  const int64_t* starts;
  int64_t step;  // sequences at a time
  std::vector<Layer<T>> layers;
};

// Sequences that go through a layer together: up to 96 rows, in whole tiles of six where it can be.
inline int64_t sequences_together(int64_t length) {
  const int64_t most = std::max<int64_t>(1, 96 / std::max<int64_t>(1, length));
  for (int64_t count = most; count > most / 2; --count) {
    if (count * length % 6 == 0) return count;
  }
  return most;
}

template <typename T>
Decoder<T>::Decoder(const DecoderLayersInputs& inputs, T* out)
    : precision(inputs.hidden.dtype, inputs.lowered),
      functions(precision.functions),
      hidden(inputs.hidden.as<T>()),
      result(out),
      batch(inputs.hidden.shape[0]),
      length(inputs.hidden.shape[1]),
      width(inputs.hidden.shape[2]),
      inner(0),
      heads(inputs.heads),
      size(width / heads),
      used(inputs.used),
      room(inputs.keys.empty() ? 0 : inputs.keys[0].shape[2]),
      scale(inputs.scale),
      rows(inputs.rows ? inputs.rows->as<int64_t>() : nullptr),
      row_count(inputs.rows ? inputs.rows->shape[0] : -1),
      starts(inputs.starts ? inputs.starts->as<int64_t>() : nullptr),
      step(sequences_together(length)) {
  for (size_t i = 0; i < inputs.weights.size(); i += kLayerWeights) {
    const TensorView* w = inputs.weights.data() + i;
    const auto norm = [&](int at) {
      return Norm<T>{functions, w[at].as<T>(), w[at + 1].as<T>(), width, inputs.eps};
    };
    const size_t at = i / kLayerWeights;
    const bool cached = !inputs.keys.empty();
    const int64_t wide = w[9].shape[0];
    layers.push_back({norm(0),
                      {w[2], width, 3 * width},
                      w[3].as<T>(),
                      {w[4], width, width},
                      w[5].as<T>(),
                      norm(6),
                      {w[8], width, wide},
                      w[9].as<T>(),
                      {w[10], wide, width},
                      w[11].as<T>(),
                      cached ? inputs.keys[at].as<T>() : nullptr,
                      cached ? inputs.values[at].as<T>() : nullptr});
    inner = std::max(inner, layers.back().up.out);
  }
}

// A thread's memory for the rows that go through a layer together.
template <typename T>
struct Own {
  explicit Own(const Decoder<T>& d)
      : most(d.step * d.length),
        room(Room<T>::items({most * d.width, most * d.width, most * d.width, most * 3 * d.width,
                             panel_items(most, d.inner), panel_items(most, d.inner),
                             d.scratch_items(), d.left_items()})),
        normalized(room.take(most * d.width)),
        sum(room.take(most * d.width)),
        attended(room.take(most * d.width)),
        states(room.take(most * 3 * d.width)),
        inner(room.take(panel_items(most, d.inner))),
        active(room.take(panel_items(most, d.inner))),
        scratch(room.take(d.scratch_items())),
        rounded(room.take(d.left_items())) {}
  int64_t most;
  Room<T> room;
  T *normalized, *sum, *attended, *states, *inner, *active, *scratch, *rounded;
};

// Keys and values of a sequence's new positions to where caches have them.
template <typename T>
void Decoder<T>::remember(const Layer<T>& layer, int64_t sequence, const T* states) const {
  for (int64_t i = 0; i < length; ++i, states += 3 * width) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t place = ((sequence * heads + head) * room + used + i) * size;
      std::copy_n(states + width + head * size, size, layer.keys + place);
      std::copy_n(states + 2 * width + head * size, size, layer.values + place);
    }
  }
}

template <typename T>
void Decoder<T>::attend_sequence(const Layer<T>& layer, int64_t sequence, const T* states,
                                 T* attended, T* scratch) const {
  const int64_t start = start_of(sequence);
  if (layer.keys != nullptr) remember(layer, sequence, states);
  if (used == 0) {
    std::fill_n(attended, start * width, T(0));  // nothing is there, and nobody reads it
    for (int64_t head = 0; head < heads; ++head) {
      functions.attention(args_of(states + start * 3 * width, length - start, head,
                                  attended + start * width, scratch));
    }
    return;
  }
  for (int64_t head = 0; head < heads; ++head) {
    AttentionArgs args = args_of(states, used + 1 - start, head, attended, scratch);
    const int64_t place = ((sequence * heads + head) * room + start) * size;
    args.key = layer.keys + place;
    args.value = layer.values + place;
    args.key_row = args.value_row = size;
    functions.attend_one(args);
  }
}

template <typename T>
void Decoder<T>::attend(const Layer<T>& layer, int64_t begin, int64_t end,
                        const Own<T>& own) const {
  const int64_t count = (end - begin) * length;
  T* x = result + begin * length * width;
  for (int64_t i = 0; i < count; ++i) {
    T* scaled = own.normalized + i * width;
    layer.first.forward(x + i * width, scaled, scaled);
  }
  multiply<T>(precision, layer.in, count, Left<T>::dense(own.normalized, width),
              Place<const T>::each(layer.in_bias), Place<T>::dense(own.states, 3 * width),
              own.rounded);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t row = (b - begin) * length;
    attend_sequence(layer, b, own.states + row * 3 * width, own.attended + row * width,
                    own.scratch);
  }
  multiply<T>(precision, layer.out, count, Left<T>::dense(own.attended, width),
              Place<const T>::each(layer.out_bias), Place<T>::dense(own.sum, width), own.rounded);
  add(x, own.sum, count * width, x);
}

// Rows chosen[0] to chosen[count - 1], or `count` rows from `begin` on.
template <typename T>
void Decoder<T>::feed(const Layer<T>& layer, const int64_t* chosen, int64_t begin, int64_t count,
                      const Own<T>& own) const {
  const auto row = [&](int64_t i) { return result + (chosen ? chosen[i] : begin + i) * width; };
  const int64_t columns = layer.up.out;
  for (int64_t i = 0; i < count; ++i) {
    T* scaled = own.normalized + i * width;
    layer.second.forward(row(i), scaled, scaled);
  }
  multiply<T>(precision, layer.up, count, Left<T>::dense(own.normalized, width),
              Place<const T>::each(layer.up_bias), Place<T>::panels(own.inner, 0, count),
              own.rounded);
  functions.gelu_tanh(own.inner, panel_items(count, columns), math::kGeluA, math::kGeluB,
                      own.active);
  multiply<T>(precision, layer.down, count, Left<T>::panels(own.active, 0, count),
              Place<const T>::each(layer.down_bias), Place<T>::dense(own.sum, width), own.rounded);
  for (int64_t i = 0; i < count; ++i) add(row(i), own.sum + i * width, width, row(i));
}

// The last layer's, for those of the sequences' rows that are read.
template <typename T>
void Decoder<T>::feed_last(const Layer<T>& layer, int64_t begin, int64_t end,
                           const Own<T>& own) const {
  const int64_t* after = rows + row_count;
  const int64_t* first = std::lower_bound(rows, after, begin * length);
  const int64_t* last = std::lower_bound(first, after, end * length);
  if (first != last) feed(layer, first, 0, last - first, own);
}

template <typename T>
void Decoder<T>::run() {
  int64_t items = 0;
  std::vector<std::pair<const Matrix<T>*, int64_t>> panels;  // to lay out
  for (Layer<T>& layer : layers) {
    for (const Matrix<T>* matrix : layer.matrices()) {
      items += matrix->items(precision);
      for (int64_t p = 0; p < matrix->panels_to_lay(); ++p) panels.emplace_back(matrix, p);
    }
  }
  Room<T, Use::kPanels> room_of_panels(items);
  for (Layer<T>& layer : layers) {
    for (Matrix<T>* matrix : layer.matrices()) matrix->take(precision, room_of_panels);
  }
  const auto lay = [&](int64_t index) {
    const auto& [matrix, panel] = panels[static_cast<size_t>(index)];
    matrix->lay(precision, panel);
  };
  const auto read = [&](const Member& member, const Own<T>& own) {
    const auto [first, after] = member.share(batch);
    std::copy_n(hidden + first * length * width, (after - first) * length * width,
                result + first * length * width);
    for (const Layer<T>& layer : layers) {
      for (int64_t begin = first; begin < after; begin += step) {
        const int64_t end = std::min(after, begin + step);
        attend(layer, begin, end, own);
        if (row_count >= 0 && &layer == &layers.back()) {
          feed_last(layer, begin, end, own);
        } else {
          feed(layer, nullptr, begin * length, (end - begin) * length, own);
        }
      }
    }
  };
  parallel_team(
      batch > 1, static_cast<int64_t>(panels.size()), lay, [&] { return Own<T>(*this); }, read);
}

}  // namespace

void decoder_layers(const DecoderLayersInputs& inputs, const TensorView& out) {
  if (inputs.hidden.dtype == DType::kFloat64) {
    Decoder<double>(inputs, out.as<double>()).run();
  } else {
    Decoder<float>(inputs, out.as<float>()).run();
  }
}

}  // namespace rlhf::cpu
