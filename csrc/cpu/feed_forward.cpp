// feed_forward on the CPU: x + gelu(norm(x) U + u) D + d, a piece of rows at a time. Kept for the
// gradient is the activation's input alone; the gradient normalises and activates again.
#include "cpu/feed_forward.h"

#include "cpu/sublayer.h"
#include "math/gelu_tanh.h"

namespace rlhf::cpu {
namespace {

template <typename T>
struct FeedForward {
  explicit FeedForward(const FeedForwardInputs& inputs)
      : precision(inputs.hidden.dtype, inputs.lowered),
        functions(precision.functions),
        hidden(inputs.hidden.as<T>()),
        chosen(inputs.rows ? inputs.rows->as<int64_t>() : nullptr),
        rows(inputs.rows ? inputs.rows->shape[0] : inputs.hidden.shape[0]),
        up(inputs.up_weight),
        down(inputs.down_weight),
        up_bias(inputs.up_bias.as<T>()),
        down_bias(inputs.down_bias.as<T>()),
        width(up.in),
        inner(up.out),
        piece(piece_of_rows(precision, rows, precision.lowered ? kPairDepth : 6, width * inner)),
        norm{functions, inputs.norm_weight.as<T>(), inputs.norm_bias.as<T>(), width, inputs.eps} {}

  int64_t place(int64_t row) const { return chosen ? chosen[row] : row; }
  int64_t inner_panels() const { return panel_count(inner); }

  void forward(T* out, T* kept) const;
  void backward(const T* grad_out, const T* kept, const FeedForwardGradients& grads) const;

  int64_t left_items() const { return precision.left_items<T>(piece, std::max(width, inner)); }

  Precision precision;
  const RowFunctions& functions;
  const T* hidden;
  const int64_t* chosen;
  int64_t rows;
  Weight<T> up, down;
  const T* up_bias;
  const T* down_bias;
  int64_t width, inner, piece;
  Norm<T> norm;
};

// A thread's rows of a piece.
template <typename T>
struct Forward {
  explicit Forward(const FeedForward<T>& f)
      : room(Room<T>::items(
            {f.piece * f.width, f.piece * f.width, panel_items(f.piece, f.inner), f.left_items()})),
        normalized(room.take(f.piece * f.width)),
        result(room.take(f.piece * f.width)),
        active(room.take(panel_items(f.piece, f.inner))),
        rounded(room.take(f.left_items())) {}
  Room<T> room;
  T *normalized, *result, *active, *rounded;
};

template <typename T>
void FeedForward<T>::forward(T* out, T* kept) const {
  Packed<T> packed(up, down);
  Room<T, Use::kPanels> room(packed.items(precision));
  packed.take(precision, room);
  const auto run = [&](int64_t begin, int64_t end, const Forward<T>& own) {
    const int64_t count = end - begin;
    for (int64_t i = 0; i < count; ++i) {
      T* scaled = own.normalized + i * width;
      norm.forward(hidden + place(begin + i) * width, scaled, scaled);
    }
    multiply<T>(precision, packed.one, count, Left<T>::dense(own.normalized, width),
                Place<const T>::each(up_bias), Place<T>::panels(kept, begin, rows), own.rounded);
    for (int64_t p = 0; p < inner_panels(); ++p) {
      functions.gelu_tanh(kept + (p * rows + begin) * kPanelColumns, count * kPanelColumns,
                          math::kGeluA, math::kGeluB, own.active + p * count * kPanelColumns);
    }
    multiply<T>(precision, packed.other, count, Left<T>::panels(own.active, 0, count),
                Place<const T>::each(down_bias), Place<T>::dense(own.result, width), own.rounded);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = place(begin + i) * width;
      add(hidden + at, own.result + i * width, width, out + at);
    }
  };
  parallel_passes(
      packed.count, [&](int64_t panel) { packed.lay(precision, panel); }, rows, piece,
      [&] { return Forward<T>(*this); }, run, 0, [](int64_t) {});
}

template <typename T>
struct Backward {
  explicit Backward(const FeedForward<T>& f)
      : room(Room<T>::items({f.piece * f.width, f.piece * f.width, f.piece * f.width, own_items(f),
                             own_items(f), f.left_items()})),
        normalized(room.take(f.piece * f.width)),
        upstream(room.take(f.piece * f.width)),
        scaled(room.take(f.piece * f.width)),
        slopes(room.take(own_items(f))),
        active(room.take(own_items(f))),
        rounded(room.take(f.left_items())),
        inverse(static_cast<size_t>(f.piece)) {}
  static int64_t own_items(const FeedForward<T>& f) {
    return f.precision.lowered ? panel_items(f.piece, f.inner) : 0;
  }
  Room<T> room;
  T *normalized, *upstream, *scaled;
  T *slopes, *active;  // where they are not made in place
  T* rounded;
  std::vector<double> inverse;
};

template <typename T>
void FeedForward<T>::backward(const T* grad_out, const T* kept,
                              const FeedForwardGradients& grads) const {
  const BackwardPanels<T> panels(precision, rows, piece, up, down, grads.up_weight,
                                 grads.down_weight);
  const WeightGradients<T>& weights = panels.weights;
  const Packed<T>& packed = panels.packed;
  // Of each piece: of the norm's weight and bias, of both biases.
  PieceSums<T> sums((rows + piece - 1) / piece, 3 * width + inner);

  const auto run = [&](int64_t begin, int64_t end, Backward<T>& own) {
    const int64_t count = end - begin;
    T* sum = sums.of(begin / piece);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = place(begin + i) * width;
      T* normalized = own.normalized + i * width;
      own.inverse[static_cast<size_t>(i)] =
          norm.forward(hidden + at, normalized, own.scaled + i * width);
      std::copy_n(grad_out + at, width, own.upstream + i * width);
    }
    const Left<T> upstream = Left<T>::dense(own.upstream, width);
    weights.one.inputs.put(Left<T>::dense(own.scaled, width), begin, count);
    weights.other.upstream.put(upstream, begin, count);
    add_rows(own.upstream, width, count, width, sum + 2 * width + inner);
    const PanelRows<T> slopes = weights.one.upstream.rows(own.slopes, begin, count);
    const PanelRows<T> active = weights.other.inputs.rows(own.active, begin, count);
    multiply<T>(precision, packed.other, count, upstream, Place<const T>::none(), slopes.place(),
                own.rounded);
    for (int64_t p = 0; p < inner_panels(); ++p) {
      functions.gelu_tanh_both(slopes.at(p), kept + (p * rows + begin) * kPanelColumns,
                               count * kPanelColumns, math::kGeluA, math::kGeluB, active.at(p));
      add_rows(slopes.at(p), kPanelColumns, count,
               std::min(kPanelColumns, inner - p * kPanelColumns),
               sum + 2 * width + p * kPanelColumns);
    }
    weights.one.upstream.put(slopes.left(), begin, count);
    weights.other.inputs.put(active.left(), begin, count);
    multiply<T>(precision, packed.one, count, slopes.left(), Place<const T>::none(),
                Place<T>::dense(own.scaled, width), own.rounded);
    T* grad_hidden = grads.hidden.as<T>();
    for (int64_t i = 0; i < count; ++i) {
      norm.backward(own.scaled + i * width, own.normalized + i * width,
                    own.inverse[static_cast<size_t>(i)], own.upstream + i * width,
                    grad_hidden + place(begin + i) * width, sum);
    }
  };
  parallel_passes(
      packed.count, [&](int64_t panel) { packed.lay(precision, panel); }, rows, piece,
      [&] { return Backward<T>(*this); }, run, weights.blocks(),
      [&](int64_t block) { weights.compute(block); });
  sums.put(0, width, grads.norm_weight.as<T>());
  sums.put(width, width, grads.norm_bias.as<T>());
  sums.put(2 * width, inner, grads.up_bias.as<T>());
  sums.put(2 * width + inner, width, grads.down_bias.as<T>());
}

}  // namespace

void feed_forward(const FeedForwardInputs& inputs, const TensorView& out, const TensorView& inner) {
  if (inputs.hidden.dtype == DType::kFloat64) {
    FeedForward<double>(inputs).forward(out.as<double>(), inner.as<double>());
  } else {
    FeedForward<float>(inputs).forward(out.as<float>(), inner.as<float>());
  }
}

void feed_forward_backward(const TensorView& grad_out, const FeedForwardInputs& inputs,
                           const TensorView& inner, const FeedForwardGradients& grads) {
  if (inputs.hidden.dtype == DType::kFloat64) {
    FeedForward<double>(inputs).backward(grad_out.as<double>(), inner.as<double>(), grads);
  } else {
    FeedForward<float>(inputs).backward(grad_out.as<float>(), inner.as<float>(), grads);
  }
}

}  // namespace rlhf::cpu
