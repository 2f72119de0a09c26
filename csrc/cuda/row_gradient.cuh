// The gradient of a row of logits, and the exact KL of two rows: the second passes of the row ops.
//
// An element's gradient depends on the element and on the row's constants alone, so vectors are cut
// where the output is aligned, and shares are walked from their ends: what the first pass read last
// is read first, while it is still in L2. Formula: csrc/math/saved_row.h; CPU: row_body.h.
#pragma once

#include "cuda/row.cuh"

namespace rlhf::cuda {

constexpr int kGradientUnroll = 2;  // vectors a lane has in flight

enum class GradientKind : int { kZero, kPlain, kEntropy, kReference };

// out_j = e_j (a + b t_j + c d_j) with 1 / sum, 1 / T and the logarithms' offsets folded in,
// e_j = 2^t_j, d_j = log q_j - log p_j; the target's entry apart. t_j is relative to `reference` as
// in row_stream.cuh, or in a careful row to `max` as in row.cuh.
struct RowGradient {
  GradientKind kind;
  bool careful;
  float reference, max, scale, a, b, c, inverse, shift;
  float target_value;
  int target;  // -1: none
};

__device__ inline float log_ratio(float x, float y, float inverse, float shift) {
  return fmaf(y - x, inverse, shift);
}

// `x` and `y` are not below kLowest where they are not careful.
template <GradientKind kKind, bool kCareful>
__device__ float gradient_of(float x, float y, const RowGradient& k) {
  const float t = kCareful ? row_exponent(x, k.max, k.scale) : fmaf(x, k.scale, -k.reference);
  const float e = exp2_fast(t);
  if (kKind == GradientKind::kPlain) return e * k.a;
  const float factor = fmaf(k.b, t, k.a);
  if (kKind == GradientKind::kEntropy) return e * factor;
  // Where p is 0 the difference may be infinite or NaN, and contributes nothing.
  const float inside = e * fmaf(k.c, log_ratio(x, y, k.inverse, k.shift), factor);
  return e > 0 ? inside : e;
}

__device__ inline float shift_between(const math::SavedRow& s) {
  return static_cast<float>((s.max - s.ref_max) * s.inverse_temperature + s.log_sum -
                            s.ref_log_sum);
}

// The target's entry in fp64. There p_j a + d cancels as p -> 1: with a = rest - d it is
// p (rest + ...) + d (1 - p), and 1 - p = -expm1(log p).
__device__ inline double target_gradient(double x, double y, const math::SavedRow& s, double scale,
                                         bool reference) {
  const double logprob = (x - s.max) * s.inverse_temperature - s.log_sum;
  const double p = exp(logprob), d = s.d * scale;
  double sum = s.a * scale + d;
  if (s.b != 0.0 && p > 0.0) sum += s.b * scale * logprob;
  if (reference && p > 0.0) {
    sum += s.c * scale * (logprob - ((y - s.ref_max) * s.inverse_temperature - s.ref_log_sum));
  }
  return (p * sum - d * expm1(logprob)) * s.inverse_temperature;
}

template <typename S>
__device__ double logit_at(const S* row, int index) {
  return static_cast<double>(to_float(row[index]));
}

// Everything of gradient_of() but the target's entry.
__device__ inline void set_coefficients(const math::SavedRow& s, double scale, bool reference,
                                        RowGradient* k) {
  const double a = s.a * scale, b = s.b * scale, c = s.c * scale;
  k->kind = reference  ? GradientKind::kReference
            : b != 0.0 ? GradientKind::kEntropy
                       : GradientKind::kPlain;
  k->max = static_cast<float>(s.max);
  k->scale = row_scale(s.inverse_temperature);
  k->careful = is_extreme(k->max, k->scale);
  k->reference = row_reference(k->max, k->scale);
  // log of the sum, relative to what the exponents are.
  double log_sum = s.log_sum;
  if (!k->careful) log_sum += kLn2 * (s.max * k->scale - k->reference);
  const double share = exp(-log_sum) * s.inverse_temperature;
  k->a = static_cast<float>((a - b * log_sum) * share);
  k->b = static_cast<float>(b * kLn2 * share);
  k->c = static_cast<float>(-c * share);
  k->inverse = static_cast<float>(s.inverse_temperature);
  k->shift = reference ? shift_between(s) : 0.0f;
}

// Whether the row's gradient is 0: it does not count, or nothing in the loss depends on it.
__device__ inline bool is_zero(const math::SavedRow& s, double scale) {
  if (s.inverse_temperature == 0.0) return true;
  const bool nothing = s.a * scale == 0 && s.b * scale == 0 && s.c * scale == 0 && s.d * scale == 0;
  return nothing && s.inverse_temperature == s.inverse_temperature;
}

// By one thread, before the row is overwritten: constants of d loss / d row times `scale`.
// `ref_row` may be null. A target of -1 leaves no entry apart.
template <typename S>
__device__ RowGradient make_gradient(const S* row, const S* ref_row, int target,
                                     const math::SavedRow& s, double scale) {
  RowGradient k = {};
  k.target = -1;
  if (is_zero(s, scale)) return k;
  const bool reference = ref_row != nullptr && s.c * scale != 0.0;
  set_coefficients(s, scale, reference, &k);
  if (target >= 0) {
    const double y = reference ? logit_at(ref_row, target) : 0.0;
    k.target = target;
    k.target_value =
        static_cast<float>(target_gradient(logit_at(row, target), y, s, scale, reference));
  }
  return k;
}

__device__ inline void store_words(const uint32_t* words, uint4* out) {
  *out = uint4{words[0], words[1], words[2], words[3]};
}

// Where 16-byte stores to `out` are possible: elements [head, head + kPack * vectors).
template <typename S>
struct AlignedPart {
  int head;
  int vectors;
  int tail;  // its first element

  __device__ AlignedPart(const S* out, int count) {
    const int misplaced = static_cast<int>(reinterpret_cast<uintptr_t>(out) % 16);
    head = misplaced == 0 ? 0 : (16 - misplaced) / static_cast<int>(sizeof(S));
    if (head > count) head = count;
    vectors = (count - head) / kPack<S>;
    tail = head + vectors * kPack<S>;
  }

  // body(index) for the elements before and after, one per thread.
  template <typename Body>
  __device__ void for_ends(int count, const Body& body) const {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < head) body(static_cast<int>(thread));
    if (thread >= kWarpSize && tail + (thread - kWarpSize) < count) {
      body(tail + (thread - kWarpSize));
    }
  }
};

// A word as gradient_of() wants it.
template <typename S, GradientKind kKind, bool kCareful>
__device__ uint32_t gradient_word(uint32_t x, uint32_t y, const RowGradient& k) {
  const auto of = [&](float a, float b) {
    if (kKind != GradientKind::kPlain && !kCareful) a = raise_lowest_value<S>(a);
    return gradient_of<kKind, kCareful>(a, b, k);
  };
  if (kKind != GradientKind::kPlain && !kCareful) x = raise_lowest<S>(x);
  const float low = of(Packed<S>::low(x), Packed<S>::low(y));
  const bool two = Packed<S>::kPerWord == 2;
  return Packed<S>::pack(low, two ? of(Packed<S>::high(x), Packed<S>::high(y)) : low);
}

// The warp's vectors [v, v + kCount * 32), those below `end`.
template <typename S, GradientKind kKind, bool kCareful, int kCount>
__device__ void gradient_step(const RowReader<S>& x_reader, const RowReader<S>& y_reader, int v,
                              int end, const RowGradient& k, uint4* out) {
  constexpr bool kReference = kKind == GradientKind::kReference;
  uint32_t x[kCount * kWords], y[kCount * kWords];
  x_reader.template read<kCount>(v, end, x);
  if (kReference) y_reader.template read<kCount>(v, end, y);
  RLHF_UNROLL
  for (int i = 0; i < kCount * kWords; ++i) {
    x[i] = gradient_word<S, kKind, kCareful>(x[i], kReference ? y[i] : x[i], k);
  }
  RLHF_UNROLL
  for (int u = 0; u < kCount; ++u) {
    const int mine = v + u * kWarpSize + lane_index();
    if (mine < end) store_words(x + u * kWords, out + mine);
  }
}

template <typename S, GradientKind kKind, bool kCareful>
__device__ void gradient_pass(const S* row, const S* ref_row, int vocab, const RowGradient& k,
                              S* out) {
  constexpr int kCount = kGradientUnroll;
  constexpr int kStep = kCount * kWarpSize;
  const AlignedPart<S> part(out, vocab);
  const S* ref = kKind == GradientKind::kReference ? ref_row : row;
  part.for_ends(vocab, [&](int i) {
    const float x = to_float(row[i]);
    from_float(
        gradient_of<kKind, kCareful>(kCareful ? x : max_keep_nan(x, kLowest), to_float(ref[i]), k),
        out + i);
  });
  const int count = part.vectors * kPack<S>;
  const RowReader<S> x_reader(row + part.head, count), y_reader(ref + part.head, count);
  uint4* vectors = reinterpret_cast<uint4*>(out + part.head);
  const VectorRange range = range_of_warp(part.vectors, warp_index(), warp_count());
  const int steps = (range.end - range.begin) / kStep;
  for (int v = range.begin + steps * kStep; v < range.end; v += kWarpSize) {
    gradient_step<S, kKind, kCareful, 1>(x_reader, y_reader, v, range.end, k, vectors);
  }
  for (int step = steps - 1; step >= 0; --step) {
    gradient_step<S, kKind, kCareful, kCount>(x_reader, y_reader, range.begin + step * kStep,
                                              range.end, k, vectors);
  }
}

// By `threads` threads, of which this is the `thread`-th.
template <typename S>
__device__ void zero_row_by(int vocab, S* out, int thread, int threads) {
  const AlignedPart<S> part(out, vocab);
  for (int i = thread; i < part.head; i += threads) from_float(0.0f, out + i);
  for (int i = part.tail + thread; i < vocab; i += threads) from_float(0.0f, out + i);
  uint4* vectors = reinterpret_cast<uint4*>(out + part.head);
  for (int v = thread; v < part.vectors; v += threads) vectors[v] = uint4{0, 0, 0, 0};
}

template <typename S>
__device__ void zero_row(int vocab, S* out) {
  zero_row_by(vocab, out, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

template <typename S, bool kReference, bool kCareful>
__device__ void write_entries(const S* row, const S* ref_row, int vocab, const RowGradient& k,
                              S* out) {
  if (kReference && k.kind == GradientKind::kReference) {
    gradient_pass<S, GradientKind::kReference, kCareful>(row, ref_row, vocab, k, out);
  } else if (k.kind == GradientKind::kEntropy) {
    gradient_pass<S, GradientKind::kEntropy, kCareful>(row, row, vocab, k, out);
  } else {
    gradient_pass<S, GradientKind::kPlain, kCareful>(row, row, vocab, k, out);
  }
}

// Writes the gradient of the block's row; `out` may be the logits. All threads of the block call
// it, after a barrier that follows make_gradient.
template <typename S, bool kReference>
__device__ void write_gradient(const S* row, const S* ref_row, int vocab, const RowGradient& k,
                               const Rows<S>& out) {
  S* to = out.row(row_of_block());
  if (k.kind == GradientKind::kZero) return zero_row(vocab, to);
  if (k.careful) {
    write_entries<S, kReference, true>(row, ref_row, vocab, k, to);
  } else {
    write_entries<S, kReference, false>(row, ref_row, vocab, k, to);
  }
  if (k.target < 0) return;
  __syncthreads();
  if (threadIdx.x == 0) from_float(k.target_value, out.row(row_of_block()) + k.target);
}

}  // namespace rlhf::cuda
