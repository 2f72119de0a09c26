// self_attention on the CPU: x + attention(norm(x) W + w) O + o, some sequences at a time. Kept for
// the gradient are queries, keys, values and what they gave; the gradient normalises again.
#include "cpu/self_attention.h"

#include "cpu/sublayer.h"

namespace rlhf::cpu {
namespace {

template <typename T>
struct Backward;

template <typename T>
struct SelfAttention {
  explicit SelfAttention(const SelfAttentionInputs& inputs)
      : precision(inputs.hidden.dtype, inputs.lowered),
        functions(precision.functions),
        hidden(inputs.hidden.as<T>()),
        length(inputs.hidden.shape[1]),
        rows(inputs.hidden.shape[0] * length),
        in(inputs.in_weight),
        out(inputs.out_weight),
        in_bias(inputs.in_bias.as<T>()),
        out_bias(inputs.out_bias.as<T>()),
        width(in.in),
        heads(inputs.heads),
        scale(inputs.scale),
        piece(piece_of_rows(precision, rows, std::max<int64_t>(1, length), in.in * in.out)),
        norm{functions, inputs.norm_weight.as<T>(), inputs.norm_bias.as<T>(), width, inputs.eps} {}

  void forward(T* result, T* states, T* attended) const;
  void backward(const T* grad_out, const T* states, const T* attended,
                const SelfAttentionGradients& grads) const;
  // Of the states of so many rows, the gradient into own.slopes, from that of the result in
  // own.scaled.
  void attend_backward(const T* states, int64_t count, const Backward<T>& own) const;

  // What all heads of all sequences share.
  AttentionArgs shape() const {
    AttentionArgs args = {};
    args.query_row = args.key_row = args.value_row = 3 * width;
    args.heads = 1;
    args.length = length;
    args.size = args.value_size = width / heads;
    args.scale = scale;
    args.out_row = width;
    return args;
  }
  // One head of one sequence, whose states begin at `states`.
  AttentionArgs args_of(const T* states, int64_t head, void* scratch) const {
    AttentionArgs args = shape();
    args.query = states + head * args.size;
    args.key = states + width + head * args.size;
    args.value = states + 2 * width + head * args.size;
    args.scratch = scratch;
    return args;
  }
  int64_t left_items() const { return precision.left_items<T>(piece, 3 * width); }
  int64_t attention_items() const { return functions.attention_scratch(shape()); }

  Precision precision;
  const RowFunctions& functions;
  const T* hidden;
  int64_t length, rows;
  Weight<T> in, out;
  const T* in_bias;
  const T* out_bias;
  int64_t width, heads;
  double scale;
  int64_t piece;
  Norm<T> norm;
};

template <typename T>
struct Forward {
  explicit Forward(const SelfAttention<T>& a)
      : room(Room<T>::items({a.piece * a.width, a.attention_items(), a.left_items()})),
        normalized(room.take(a.piece * a.width)),
        scratch(room.take(a.attention_items())),
        rounded(room.take(a.left_items())) {}
  Room<T> room;
  T *normalized, *scratch, *rounded;
};

template <typename T>
void SelfAttention<T>::forward(T* result, T* states, T* attended) const {
  Packed<T> packed(in, out);
  Room<T, Use::kPanels> room(packed.items(precision));
  packed.take(precision, room);
  const auto run = [&](int64_t begin, int64_t end, const Forward<T>& own) {
    const int64_t count = end - begin;
    T* to = result + begin * width;
    for (int64_t i = 0; i < count; ++i) {
      T* scaled = own.normalized + i * width;
      norm.forward(hidden + (begin + i) * width, scaled, scaled);
    }
    multiply<T>(precision, packed.one, count, Left<T>::dense(own.normalized, width),
                Place<const T>::each(in_bias),
                Place<T>::dense(states + begin * 3 * width, 3 * width), own.rounded);
    for (int64_t row = begin; row < end; row += length) {
      for (int64_t head = 0; head < heads; ++head) {
        AttentionArgs args = args_of(states + row * 3 * width, head, own.scratch);
        args.out = attended + row * width + head * args.size;
        functions.attention(args);
      }
    }
    multiply<T>(precision, packed.other, count, Left<T>::dense(attended + begin * width, width),
                Place<const T>::each(out_bias), Place<T>::dense(to, width), own.rounded);
    add(hidden + begin * width, to, count * width, to);
  };
  parallel_passes(
      packed.count, [&](int64_t panel) { packed.lay(precision, panel); }, rows, piece,
      [&] { return Forward<T>(*this); }, run, 0, [](int64_t) {});
}

template <typename T>
struct Backward {
  explicit Backward(const SelfAttention<T>& a)
      : room(Room<T>::items({a.piece * a.width, a.piece * a.width, a.piece * 3 * a.width,
                             a.attention_items(), a.left_items()})),
        normalized(room.take(a.piece * a.width)),
        scaled(room.take(a.piece * a.width)),
        slopes(room.take(a.piece * 3 * a.width)),
        scratch(room.take(a.attention_items())),
        rounded(room.take(a.left_items())),
        inverse(static_cast<size_t>(a.piece)) {}
  Room<T> room;
  T *normalized, *scaled, *slopes, *scratch, *rounded;
  std::vector<double> inverse;
};

template <typename T>
void SelfAttention<T>::attend_backward(const T* states, int64_t count,
                                       const Backward<T>& own) const {
  for (int64_t row = 0; row < count; row += length) {
    for (int64_t head = 0; head < heads; ++head) {
      AttentionArgs args = args_of(states + row * 3 * width, head, own.scratch);
      T* to = own.slopes + row * 3 * width + head * args.size;
      args.grad_out = own.scaled + row * width + head * args.size;
      args.grad_query = to;
      args.grad_key = to + width;
      args.grad_value = to + 2 * width;
      args.grad_query_row = args.grad_key_row = args.grad_value_row = 3 * width;
      functions.attention_gradient(args);
    }
  }
}

template <typename T>
void SelfAttention<T>::backward(const T* grad_out, const T* states, const T* attended,
                                const SelfAttentionGradients& grads) const {
  const BackwardPanels<T> panels(precision, rows, piece, in, out, grads.in_weight,
                                 grads.out_weight);
  const WeightGradients<T>& weights = panels.weights;
  const Packed<T>& packed = panels.packed;
  // Of each piece: of the norm's weight and bias, of both biases.
  PieceSums<T> sums((rows + piece - 1) / piece, 6 * width);

  const auto run = [&](int64_t begin, int64_t end, Backward<T>& own) {
    const int64_t count = end - begin;
    T* sum = sums.of(begin / piece);
    const T* grad = grad_out + begin * width;
    for (int64_t i = 0; i < count; ++i) {
      own.inverse[static_cast<size_t>(i)] = norm.forward(
          hidden + (begin + i) * width, own.normalized + i * width, own.scaled + i * width);
    }
    const Left<T> upstream = Left<T>::dense(grad, width);
    weights.one.inputs.put(Left<T>::dense(own.scaled, width), begin, count);
    weights.other.inputs.put(Left<T>::dense(attended + begin * width, width), begin, count);
    weights.other.upstream.put(upstream, begin, count);
    add_rows(grad, width, count, width, sum + 5 * width);
    multiply<T>(precision, packed.other, count, upstream, Place<const T>::none(),
                Place<T>::dense(own.scaled, width), own.rounded);
    attend_backward(states + begin * 3 * width, count, own);
    const Left<T> slopes = Left<T>::dense(own.slopes, 3 * width);
    weights.one.upstream.put(slopes, begin, count);
    add_rows(own.slopes, 3 * width, count, 3 * width, sum + 2 * width);
    multiply<T>(precision, packed.one, count, slopes, Place<const T>::none(),
                Place<T>::dense(own.scaled, width), own.rounded);
    T* grad_hidden = grads.hidden.as<T>() + begin * width;
    for (int64_t i = 0; i < count; ++i) {
      norm.backward(own.scaled + i * width, own.normalized + i * width,
                    own.inverse[static_cast<size_t>(i)], grad + i * width, grad_hidden + i * width,
                    sum);
    }
  };
  parallel_passes(
      packed.count, [&](int64_t panel) { packed.lay(precision, panel); }, rows, piece,
      [&] { return Backward<T>(*this); }, run, weights.blocks(),
      [&](int64_t block) { weights.compute(block); });
  sums.put(0, width, grads.norm_weight.as<T>());
  sums.put(width, width, grads.norm_bias.as<T>());
  sums.put(2 * width, 3 * width, grads.in_bias.as<T>());
  sums.put(5 * width, width, grads.out_bias.as<T>());
}

}  // namespace

void self_attention(const SelfAttentionInputs& inputs, const TensorView& out,
                    const TensorView& states, const TensorView& attended) {
  if (inputs.hidden.dtype == DType::kFloat64) {
    SelfAttention<double>(inputs).forward(out.as<double>(), states.as<double>(),
                                          attended.as<double>());
  } else {
    SelfAttention<float>(inputs).forward(out.as<float>(), states.as<float>(), attended.as<float>());
  }
}

void self_attention_backward(const TensorView& grad_out, const SelfAttentionInputs& inputs,
                             const TensorView& states, const TensorView& attended,
                             const SelfAttentionGradients& grads) {
  if (inputs.hidden.dtype == DType::kFloat64) {
    SelfAttention<double>(inputs).backward(grad_out.as<double>(), states.as<double>(),
                                           attended.as<double>(), grads);
  } else {
    SelfAttention<float>(inputs).backward(grad_out.as<float>(), states.as<float>(),
                                          attended.as<float>(), grads);
  }
}

}  // namespace rlhf::cpu
