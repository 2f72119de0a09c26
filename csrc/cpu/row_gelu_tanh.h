// gelu_tanh and its gradient over consecutive elements. Formula: csrc/math/gelu_tanh.h, whose
// constants come as arguments, since no header of ours may be included here.
//
// Included by row_body.h inside an anonymous namespace; see there. An element's result depends on
// its value alone: the last elements go through the same vectors as the others.

template <typename X>
struct GeluConstants {
  using V = typename X::V;
  // exp(-u) is 2^126 at -10, the last x where it can multiply a sigmoid of 2^-126. Beyond, where
  // value and slope are nothing, they stay what they are there: x and x^2 may be too large to be
  // multiplied by them. So is x^2 where the slope is 1.
  V slope0, slope2, log2_0, log2_2, one = X::set(1.0), least = X::set(-10.0), most = X::set(10.0);

  GeluConstants(double a, double b)
      : slope0(X::set(a)),
        slope2(X::set(3 * b)),
        log2_0(X::set(-a * kLog2E)),
        log2_2(X::set(-b * kLog2E)) {}

  // exp(-u)
  V exponential(V x, V square) const { return X::exp2(X::bounded(x * (square * log2_2 + log2_0))); }
  V value(V any) const {
    const V x = X::max(least, any);
    return x / (one + exponential(x, x * x));
  }
  V slope(V any) const {
    V unused;
    return slope(any, &unused);
  }
  // And the value, of which `sigmoid` is a factor.
  V slope(V any, V* sigmoid) const {
    const V x = X::max(least, X::select_less(most, any, most, any));
    const V square = x * x, e = exponential(x, square), s = one / (one + e);
    *sigmoid = s;
    return (x * s) * (e * s) * (square * slope2 + slope0) + s;
  }
};

template <typename X, typename S>
void row_gelu_tanh(const void* input, int64_t count, double a, double b, void* output) {
  const GeluConstants<X> k(a, b);
  const S* x = static_cast<const S*>(input);
  S* y = static_cast<S*>(output);
  for (int64_t i = 0; i < count; i += X::kWidth) {
    store_some<X>(y + i, k.value(load_some<X>(x + i, count - i)), count - i);
  }
}

template <typename X, typename S>
void row_gelu_tanh_gradient(const void* grads, const void* input, int64_t count, double a, double b,
                            void* output) {
  const GeluConstants<X> k(a, b);
  const S* g = static_cast<const S*>(grads);
  const S* x = static_cast<const S*>(input);
  S* y = static_cast<S*>(output);
  for (int64_t i = 0; i < count; i += X::kWidth) {
    const typename X::V slope = k.slope(load_some<X>(x + i, count - i));
    store_some<X>(y + i, load_some<X>(g + i, count - i) * slope, count - i);
  }
}

// `value` gets gelu of the input, `grads` are multiplied by its slope.
template <typename X, typename S>
void row_gelu_tanh_both(void* grads, const void* input, int64_t count, double a, double b,
                        void* value) {
  const GeluConstants<X> k(a, b);
  S* g = static_cast<S*>(grads);
  const S* x = static_cast<const S*>(input);
  S* y = static_cast<S*>(value);
  for (int64_t i = 0; i < count; i += X::kWidth) {
    const typename X::V any = load_some<X>(x + i, count - i);
    typename X::V sigmoid;
    const typename X::V slope = k.slope(any, &sigmoid);
    store_some<X>(y + i, X::max(k.least, any) * sigmoid, count - i);
    store_some<X>(g + i, load_some<X>(g + i, count - i) * slope, count - i);
  }
}
