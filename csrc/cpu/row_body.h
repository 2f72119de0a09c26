// The row kernels, written once over a vector type and compiled once per instruction set.
//
// A row is read in blocks that stay in L1: the block's maximum first, then one exponential per
// element, e = 2^t with t = (x - max) log2(e) / T, summed in fp32 lanes and carried across blocks
// in fp64. The order of every sum depends on the position in the row alone, so a row's result does
// not depend on the batch, the thread or the alignment. A NaN is never dropped.
//
// Included by row_<isa>.cpp inside an anonymous namespace, after the vector type. Besides the other
// row_*.h below, which stand in that namespace too, no header of ours may be included here, or its
// inline code would be compiled for the wider set and shared.

#include "cpu/row_access.h"
#include "cpu/row_product.h"

constexpr int64_t kBlock = kRowBlock;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

template <typename X, typename S>
double block_max(const S* x, int64_t count) {
  typename X::V m0 = X::set(-HUGE_VAL), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * X::kWidth <= count; i += 4 * X::kWidth) {
    typename X::V v0, v1, v2, v3;
    load_pair<X>(x + i, &v0, &v1);
    load_pair<X>(x + i + 2 * X::kWidth, &v2, &v3);
    m0 = X::max(v0, m0);
    m1 = X::max(v1, m1);
    m2 = X::max(v2, m2);
    m3 = X::max(v3, m3);
  }
  for (; i < count; i += X::kWidth) m0 = X::max(load_some<X>(x + i, count - i), m0);
  return X::highest(X::max(X::max(m0, m1), X::max(m2, m3)));
}

template <typename X, typename S>
bool has_nan(const S* x, int64_t count) {
  int64_t i = 0;
  while (i < count && X::scalar(x + i) == X::scalar(x + i)) ++i;
  return i < count;
}

// sum 2^t and sum 2^t t over the row so far, relative to `max`. Entries equal to the maximum are
// counted apart: in one fp32 lane with a 1 the rest would vanish as p -> 1, and 1 - p with it.
struct RunningSums {
  double max;
  double peaks;
  double rest;
  double weighted;
};

template <typename X>
struct LaneSums {
  typename X::V peaks = X::set(0.0), rest = X::set(0.0), weighted = X::set(0.0);

  template <bool kPeaks>
  void add(typename X::V x, typename X::V max, typename X::V scale) {
    const typename X::V t = X::bounded((x - max) * scale);
    typename X::V e = X::exp2(t);
    weighted = e * t + weighted;
    if (kPeaks) {
      const typename X::V zero = X::set(0.0), one = X::set(1.0);
      e = X::select_less(t, zero, e, e - one);
      peaks = peaks + X::select_less(t, zero, zero, one);
    }
    rest = rest + e;
  }
};

template <typename X, bool kPeaks, typename S, typename Kept>
void add_block(const S* x, int64_t count, double scale_value, const Kept& kept, RunningSums* sums) {
  const typename X::V max = X::set(sums->max), scale = X::set(scale_value);
  LaneSums<X> s0, s1, s2, s3;
  int64_t i = 0;
  for (; i + 4 * X::kWidth <= count; i += 4 * X::kWidth) {
    prefetch_ahead<4 * X::kWidth>(x + i);
    typename X::V v0, v1, v2, v3;
    load_pair<X>(x + i, &v0, &v1);
    load_pair<X>(x + i + 2 * X::kWidth, &v2, &v3);
    s0.template add<kPeaks>(kept(v0), max, scale);
    s1.template add<kPeaks>(kept(v1), max, scale);
    s2.template add<kPeaks>(kept(v2), max, scale);
    s3.template add<kPeaks>(kept(v3), max, scale);
  }
  for (; i < count; i += X::kWidth) {
    s0.template add<kPeaks>(kept(load_some<X>(x + i, count - i)), max, scale);
  }
  sums->rest += (X::sum(s0.rest) + X::sum(s1.rest)) + (X::sum(s2.rest) + X::sum(s3.rest));
  sums->weighted +=
      (X::sum(s0.weighted) + X::sum(s1.weighted)) + (X::sum(s2.weighted) + X::sum(s3.weighted));
  if (kPeaks) {
    sums->peaks += (X::sum(s0.peaks) + X::sum(s1.peaks)) + (X::sum(s2.peaks) + X::sum(s3.peaks));
  }
}

inline void raise_max(double highest, double scale, RunningSums* sums) {
  const double total = sums->rest + sums->peaks;
  if (total > 0) {  // otherwise the change may be -inf, and -inf * 0 is NaN
    const double change = (sums->max - highest) * scale;
    const double factor = exp2(change);
    sums->weighted = (sums->weighted + total * change) * factor;
    sums->rest = total * factor;
    sums->peaks = 0.0;
  }
  sums->max = highest;
}

// `blocks` may be null. Never inlined: with or without blocks a row's state has the same bits.
template <typename X, typename S, typename Kept>
__attribute__((noinline)) void row_pass(const RowArgs& args, const Kept& kept, RowBlock* blocks,
                                        RowState* state) {
  const S* x = static_cast<const S*>(args.row);
  const double scale = X::round(args.inverse_temperature * kLog2E);
  RunningSums sums = {-HUGE_VAL, 0.0, 0.0, 0.0};
  for (int64_t begin = 0; begin < args.vocab; begin += kBlock) {
    const int64_t count = args.vocab - begin < kBlock ? args.vocab - begin : kBlock;
    const double highest = block_max<X>(x + begin, count);
    if (Kept::kAll || highest >= kept.threshold) {
      if (highest > sums.max) raise_max(highest, scale, &sums);
      if (sums.max == -HUGE_VAL) {
        if (has_nan<X>(x + begin, count)) sums.rest = NAN;
      } else if (highest == sums.max) {
        add_block<X, true>(x + begin, count, scale, kept, &sums);
      } else {
        add_block<X, false>(x + begin, count, scale, kept, &sums);
      }
    }
    if (blocks != nullptr) blocks[begin / kBlock] = {sums.max, sums.peaks + sums.rest};
  }
  state->max = sums.max;
  state->log_sum = sums.peaks == 1.0 ? log1p(sums.rest) : log(sums.peaks + sums.rest);
  state->entropy = state->log_sum - kLn2 * sums.weighted / (sums.peaks + sums.rest);
}

template <typename X, typename S>
void row_state(const RowArgs& args, RowState* state) {
  row_pass<X, S>(args, EveryEntry<X>{-HUGE_VAL}, nullptr, state);
}

#include "cpu/row_exact_kl.h"

// The constants of a gradient pass with 1 / sum, 1 / T and the logarithms' offsets folded in:
// out_j = e_j (a + b t_j + c d_j), d_j = log q_j - log p_j.
template <typename X>
struct GradientConstants {
  typename X::V max, scale, a, b, c, inverse, shift;
};

template <typename X, bool kEntropy, bool kReference>
inline typename X::V gradient_of(typename X::V x, typename X::V y, const GradientConstants<X>& k) {
  using V = typename X::V;
  const V t = X::bounded((x - k.max) * k.scale);
  const V e = X::exp2(t);
  V factor = k.a;
  if (kEntropy) factor = k.b * t + factor;
  if (!kReference) return e * factor;
  // Where p is 0 the difference may be infinite or NaN, and contributes nothing.
  const V zero = X::set(0.0), d = (y - x) * k.inverse + k.shift;
  return X::select_less(zero, e, e * (k.c * d + factor), X::select_nan(e, e, zero));
}

template <typename X, bool kEntropy, bool kReference, typename S>
void gradient_pass(const S* x, const S* y, int64_t vocab, const GradientConstants<X>& k, S* out) {
  using V = typename X::V;
  int64_t i = 0;
  // Both loads before both stores: `out` may be `x`, so the compiler cannot move them.
  for (; i + 2 * X::kWidth <= vocab; i += 2 * X::kWidth) {
    const int64_t j = i + X::kWidth;
    const V x0 = X::load(x + i), x1 = X::load(x + j);
    const V y0 = kReference ? X::load(y + i) : x0, y1 = kReference ? X::load(y + j) : x1;
    const V g0 = gradient_of<X, kEntropy, kReference>(x0, y0, k);
    const V g1 = gradient_of<X, kEntropy, kReference>(x1, y1, k);
    X::store(out + i, g0);
    X::store(out + j, g1);
  }
  for (; i < vocab; i += X::kWidth) {
    const V value = load_some<X>(x + i, vocab - i);
    const V ref = kReference ? load_some<X>(y + i, vocab - i) : value;
    store_some<X>(out + i, gradient_of<X, kEntropy, kReference>(value, ref, k), vocab - i);
  }
}

// The target's entry, where p_j a + d cancels as p -> 1: with a = rest - d it is
// p (rest + ...) + d (1 - p), and 1 - p = -expm1(log p).
template <typename X, typename S>
double target_gradient(const RowArgs& args, const RowState& state, const RowState* ref,
                       const RowGradient& g) {
  const double x = X::scalar(static_cast<const S*>(args.row) + g.target);
  const double logprob = (x - state.max) * args.inverse_temperature - state.log_sum;
  const double p = exp(logprob);
  double sum = g.a + g.d;
  if (g.b != 0.0 && p > 0.0) sum += g.b * logprob;
  if (ref != nullptr && g.c != 0.0 && p > 0.0) {
    const double y = X::scalar(static_cast<const S*>(args.ref_row) + g.target);
    sum += g.c * (logprob - ((y - ref->max) * args.inverse_temperature - ref->log_sum));
  }
  return (p * sum - g.d * expm1(logprob)) * args.inverse_temperature;
}

template <typename X, typename S>
void row_gradient(const RowArgs& args, const RowState& state, const RowState* ref,
                  const RowGradient& g, void* out_row) {
  const S* x = static_cast<const S*>(args.row);
  const S* y = static_cast<const S*>(args.ref_row);
  S* out = static_cast<S*>(out_row);
  // Read before the row is overwritten.
  const double target = g.target < 0 ? 0.0 : target_gradient<X, S>(args, state, ref, g);
  const double share = exp(-state.log_sum) * args.inverse_temperature;
  GradientConstants<X> k;
  k.max = X::set(state.max);
  k.scale = X::set(args.inverse_temperature * kLog2E);
  k.a = X::set((g.a - g.b * state.log_sum) * share);
  k.b = X::set(g.b * kLn2 * share);
  k.c = X::set(-g.c * share);
  k.inverse = X::set(args.inverse_temperature);
  const bool reference = ref != nullptr && g.c != 0.0;
  k.shift = X::set(0.0);
  if (reference) {
    k.shift =
        X::set((state.max - ref->max) * args.inverse_temperature + state.log_sum - ref->log_sum);
    gradient_pass<X, true, true>(x, y, args.vocab, k, out);
  } else if (g.b != 0.0) {
    gradient_pass<X, true, false>(x, y, args.vocab, k, out);
  } else {
    gradient_pass<X, false, false>(x, y, args.vocab, k, out);
  }
  if (g.target >= 0) X::store_scalar(out + g.target, target);
}

#include "cpu/row_causal_attention.h"
#include "cpu/row_gelu_tanh.h"
#include "cpu/row_layer_norm.h"
#include "cpu/row_pairs.h"
#include "cpu/row_panels.h"
#include "cpu/row_sample.h"

template <typename X, typename S>
constexpr RowFunctions row_functions() {
  return {row_state<X, S>,
          row_logit<X, S>,
          row_exact_kl<X, S>,
          row_gradient<X, S>,
          row_scale<X, S>,
          row_gelu_tanh<X, S>,
          row_gelu_tanh_gradient<X, S>,
          row_gelu_tanh_both<X, S>,
          row_pack<typename X::Lane>,
          row_multiply<X>,
          pairs_functions<X, S>(),
          row_normalize<X>,
          row_normalize_gradient<X>,
          row_attention_scratch,
          row_attention<X, S>,
          row_attention_gradient<X, S>,
          row_attend_one<X>,
          row_blocks<X, S>,
          row_kept_blocks<X, S>,
          row_draw<X, S>,
          row_maxima<X, S>,
          row_collect<X, S>,
          row_mass<X, S>};
}
