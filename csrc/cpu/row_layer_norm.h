// Layer normalisation of one row of Lanes, (x - mean) / sqrt(variance + eps), and its gradient
//
//   dx = (h - mean(h) - n mean(h n)) / sqrt(variance + eps)      h = weight * upstream
//
// Included by row_body.h inside an anonymous namespace; see there. A row is whole vectors.

template <typename X, typename Value>
inline double lane_mean(int64_t count, const Value& value) {
  typename X::V sum = X::set(0.0);
  for (int64_t i = 0; i < count; i += X::kWidth) sum = sum + value(i);
  return X::sum(sum) / static_cast<double>(count);
}

// Returns 1 / sqrt(variance + eps).
template <typename X>
double row_normalize(const void* row, int64_t count, double eps, void* normalized) {
  using V = typename X::V;
  using Lane = typename X::Lane;
  const Lane* x = static_cast<const Lane*>(row);
  Lane* out = static_cast<Lane*>(normalized);
  const V mean = X::set(lane_mean<X>(count, [&](int64_t i) { return X::load(x + i); }));
  const double variance = lane_mean<X>(count, [&](int64_t i) {
    const V d = X::load(x + i) - mean;
    return d * d;
  });
  const double inverse = 1.0 / sqrt(variance + eps);
  const V factor = X::set(inverse);
  for (int64_t i = 0; i < count; i += X::kWidth) {
    X::store(out + i, (X::load(x + i) - mean) * factor);
  }
  return inverse;
}

// out = start + dx; `out` may be `start` or `grads`.
template <typename X>
void row_normalize_gradient(const void* grads, const void* normalized, const void* weight,
                            double inverse_deviation, int64_t count, const void* start, void* out) {
  using V = typename X::V;
  using Lane = typename X::Lane;
  const Lane* g = static_cast<const Lane*>(grads);
  const Lane* n = static_cast<const Lane*>(normalized);
  const Lane* w = static_cast<const Lane*>(weight);
  const Lane* from = static_cast<const Lane*>(start);
  Lane* to = static_cast<Lane*>(out);
  const auto scaled = [&](int64_t i) { return X::load(g + i) * X::load(w + i); };
  const V mean = X::set(lane_mean<X>(count, scaled));
  const V slope =
      X::set(lane_mean<X>(count, [&](int64_t i) { return scaled(i) * X::load(n + i); }));
  const V factor = X::set(inverse_deviation);
  for (int64_t i = 0; i < count; i += X::kWidth) {
    X::store(to + i, (scaled(i) - mean - X::load(n + i) * slope) * factor + X::load(from + i));
  }
}
