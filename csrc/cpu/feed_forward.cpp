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
      : functions(row_functions_for(inputs.hidden.dtype)),
        hidden(inputs.hidden.as<T>()),
        chosen(inputs.rows ? inputs.rows->as<int64_t>() : nullptr),
        rows(inputs.rows ? inputs.rows->shape[0] : inputs.hidden.shape[0]),
        up(inputs.up_weight),
        down(inputs.down_weight),
        up_bias(inputs.up_bias.as<T>()),
        down_bias(inputs.down_bias.as<T>()),
        width(up.in),
        inner(up.out),
        piece(piece_rows(rows, 6, width * inner)),
        norm{functions, inputs.norm_weight.as<T>(), inputs.norm_bias.as<T>(), width, inputs.eps} {}

  int64_t place(int64_t row) const { return chosen ? chosen[row] : row; }
  int64_t inner_panels() const { return panel_count(inner); }

  void forward(T* out, T* kept) const;
  void backward(const T* grad_out, const T* kept, const FeedForwardGradients& grads) const;

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
      : room(Room<T>::items({f.piece * f.width, f.piece * f.width, panel_items(f.piece, f.inner)})),
        normalized(room.take(f.piece * f.width)),
        result(room.take(f.piece * f.width)),
        active(room.take(panel_items(f.piece, f.inner))) {}
  Room<T> room;
  T *normalized, *result, *active;
};

template <typename T>
void FeedForward<T>::forward(T* out, T* kept) const {
  Room<T, Use::kPanels> room(Room<T>::items({up.items(), down.items()}));
  const Packed<T> packed = {up, down, room.take(up.items()), room.take(down.items())};
  const auto run = [&](int64_t begin, int64_t end, const Forward<T>& own) {
    const int64_t count = end - begin;
    for (int64_t i = 0; i < count; ++i) {
      T* scaled = own.normalized + i * width;
      norm.forward(hidden + place(begin + i) * width, scaled, scaled);
    }
    multiply<T>(functions, count, width, inner, Left<T>::dense(own.normalized, width),
                packed.one_panels, Place<const T>::each(up_bias),
                Place<T>::panels(kept, begin, rows));
    for (int64_t p = 0; p < inner_panels(); ++p) {
      functions.gelu_tanh(kept + (p * rows + begin) * kPanelColumns, count * kPanelColumns,
                          math::kGeluA, math::kGeluB, own.active + p * count * kPanelColumns);
    }
    multiply<T>(functions, count, inner, width, Left<T>::panels(own.active, 0, count),
                packed.other_panels, Place<const T>::each(down_bias),
                Place<T>::dense(own.result, width));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = place(begin + i) * width;
      add(hidden + at, own.result + i * width, width, out + at);
    }
  };
  parallel_passes(
      packed.panels(), [&](int64_t panel) { packed.pack(functions, panel); }, rows, piece,
      [&] { return Forward<T>(*this); }, run, 0, [](int64_t) {});
}

template <typename T>
struct Backward {
  explicit Backward(const FeedForward<T>& f)
      : room(Room<T>::items({f.piece * f.width, f.piece * f.width, f.piece * f.width})),
        normalized(room.take(f.piece * f.width)),
        upstream(room.take(f.piece * f.width)),
        scaled(room.take(f.piece * f.width)),
        inverse(static_cast<size_t>(f.piece)) {}
  Room<T> room;
  T *normalized, *upstream, *scaled;
  std::vector<double> inverse;
};

template <typename T>
void FeedForward<T>::backward(const T* grad_out, const T* kept,
                              const FeedForwardGradients& grads) const {
  const int64_t wide = panel_items(rows, inner), narrow = panel_items(rows, width);
  const Weight<T> turned_up = up.turned(), turned_down = down.turned();
  Room<T, Use::kPanels> room(
      Room<T>::items({wide, wide, narrow, narrow, turned_up.items(), turned_down.items()}));
  T* slopes = room.take(wide);    // gradient of the activation's input
  T* active = room.take(wide);    // the activation
  T* scaled = room.take(narrow);  // what U multiplies
  T* upstream = room.take(narrow);
  const Packed<T> packed = {turned_up, turned_down, room.take(turned_up.items()),
                            room.take(turned_down.items())};
  const WeightGradients<T> weights = {
      {functions, Weight<T>(grads.up_weight), scaled, slopes, rows},
      {functions, Weight<T>(grads.down_weight), active, upstream, rows}};
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
    to_panels(own.scaled, count, width, scaled, begin, rows);
    to_panels(own.upstream, count, width, upstream, begin, rows);
    add_rows(own.upstream, width, count, width, sum + 2 * width + inner);
    multiply<T>(functions, count, width, inner, Left<T>::dense(own.upstream, width),
                packed.other_panels, Place<const T>::none(), Place<T>::panels(slopes, begin, rows));
    for (int64_t p = 0; p < inner_panels(); ++p) {
      const int64_t at = (p * rows + begin) * kPanelColumns;
      functions.gelu_tanh_both(slopes + at, kept + at, count * kPanelColumns, math::kGeluA,
                               math::kGeluB, active + at);
      add_rows(slopes + at, kPanelColumns, count,
               std::min(kPanelColumns, inner - p * kPanelColumns),
               sum + 2 * width + p * kPanelColumns);
    }
    multiply<T>(functions, count, inner, width, Left<T>::panels(slopes, begin, rows),
                packed.one_panels, Place<const T>::none(), Place<T>::dense(own.scaled, width));
    T* grad_hidden = grads.hidden.as<T>();
    for (int64_t i = 0; i < count; ++i) {
      norm.backward(own.scaled + i * width, own.normalized + i * width,
                    own.inverse[static_cast<size_t>(i)], own.upstream + i * width,
                    grad_hidden + place(begin + i) * width, sum);
    }
  };
  parallel_passes(
      packed.panels(), [&](int64_t panel) { packed.pack(functions, panel); }, rows, piece,
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
