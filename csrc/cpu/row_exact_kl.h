// KL of a row of logits to the reference's, over the whole vocabulary.
//
// Included by row_body.h inside an anonymous namespace; see there.

// p (expm1(d) - d) with d = log q - log p: never negative, and exact to fp32 for tiny differences.
// For |d| >= 1 the same is q - p - p d; where p is 0 what remains is q.
template <typename X>
inline typename X::V kl_term(typename X::V p, typename X::V q, typename X::V d) {
  using V = typename X::V;
  V series = X::set(X::kInverseFactorial[X::kSeriesTerms - 1]);
  for (int term = X::kSeriesTerms - 2; term >= 0; --term) {
    series = series * d + X::set(X::kInverseFactorial[term]);
  }
  const V near = p * (d * d * series);
  const V far = (q - p) - p * d;
  const V one = X::set(1.0), zero = X::set(0.0);
  const V inside = X::select_less(X::absolute(d), one, near, far);
  return X::select_less(zero, p, inside, X::select_nan(p, p, q));
}

template <typename X, typename S>
double row_exact_kl(const RowArgs& args, const RowState& state, const RowState& ref) {
  using V = typename X::V;
  const S* x = static_cast<const S*>(args.row);
  const S* y = static_cast<const S*>(args.ref_row);
  const V scale = X::set(args.inverse_temperature * kLog2E);
  const V max = X::set(state.max), ref_max = X::set(ref.max);
  const V share = X::set(exp(-state.log_sum)), ref_share = X::set(exp(-ref.log_sum));
  const V inverse = X::set(args.inverse_temperature);
  const V shift =
      X::set((state.max - ref.max) * args.inverse_temperature + state.log_sum - ref.log_sum);
  double total = 0.0;
  for (int64_t begin = 0; begin < args.vocab; begin += kBlock) {
    const int64_t end = args.vocab - begin < kBlock ? args.vocab : begin + kBlock;
    V sum = X::set(0.0);
    for (int64_t i = begin; i < end; i += X::kWidth) {
      const V a = load_some<X>(x + i, end - i), b = load_some<X>(y + i, end - i);
      const V p = X::exp2(X::bounded((a - max) * scale)) * share;
      const V q = X::exp2(X::bounded((b - ref_max) * scale)) * ref_share;
      sum = sum + kl_term<X>(p, q, (b - a) * inverse + shift);
    }
    total += X::sum(sum);
  }
  return total;
}
