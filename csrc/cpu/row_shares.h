// Softmax of a row of scores whose length is no whole number of vectors.
//
// Included by row_body.h inside an anonymous namespace; see there.

// 0, 1, 2, ...
template <typename X>
inline typename X::V count_up() {
  typename X::Lane numbers[X::kWidth];
  for (int lane = 0; lane < X::kWidth; ++lane) {
    numbers[lane] = static_cast<typename X::Lane>(lane);
  }
  return X::load(numbers);
}

// Lanes of the vectors that hold so many.
template <typename X>
inline int64_t whole(int64_t count) {
  return (count + X::kWidth - 1) & -X::kWidth;
}

// Zeros, in whole vectors.
template <typename X>
inline void clear(typename X::Lane* to, int64_t count) {
  for (int64_t i = 0; i < count; i += X::kWidth) X::store(to + i, X::set(0.0));
}

// each(j, kept) for the vectors of a row's first `own` entries: kept(x, other) is x in those, and
// `other` in what the last vector holds after them. `lanes` is count_up().
template <typename X, typename Each>
inline void for_own(typename X::V lanes, int64_t own, const Each& each) {
  using V = typename X::V;
  int64_t j = 0;
  for (; j + X::kWidth <= own; j += X::kWidth) each(j, [](V x, V) { return x; });
  if (j == own) return;
  const V left = X::set(static_cast<double>(own - j));
  each(j, [&](V x, V other) { return X::select_less(lanes, left, x, other); });
}

// Scores, in units of ln 2, to shares: softmax of the first `own`, 0 from there to `count`.
template <typename X>
inline void to_shares(typename X::V lanes, typename X::Lane* row, int64_t own, int64_t count) {
  using V = typename X::V;
  const V zero = X::set(0.0), lowest = X::set(-HUGE_VAL);
  V highest = lowest, sum = zero;
  for_own<X>(lanes, own, [&](int64_t j, auto kept) {
    highest = X::max(kept(X::load(row + j), lowest), highest);
  });
  const V max = X::set(X::highest(highest));
  for_own<X>(lanes, own, [&](int64_t j, auto kept) {
    // of a number far below 0 the exponential takes long
    const V t = kept(X::load(row + j) - max, zero);
    const V e = kept(X::exp2(X::bounded(t)), zero);
    X::store(row + j, e);
    sum = sum + e;
  });
  const V inverse = X::set(1.0 / X::sum(sum));
  for_own<X>(lanes, own, [&](int64_t j, auto kept) {
    X::store(row + j, kept(X::load(row + j) * inverse, zero));
  });
  clear<X>(row + whole<X>(own), count - whole<X>(own));
}
