// Attention of one head from one position to all keys of its sequence:
//
//   out = sum_j p_j v_j        p = softmax_j(scale q . k_j)
//
// Included by row_body.h inside an anonymous namespace, after row_shares.h; see there.

template <typename X>
inline double dot(const typename X::Lane* a, const typename X::Lane* b, int64_t count) {
  typename X::V sum = X::set(0.0);
  int64_t d = 0;
  for (; d + X::kWidth <= count; d += X::kWidth) sum = X::load(a + d) * X::load(b + d) + sum;
  double total = X::sum(sum);
  for (; d < count; ++d) total += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  return total;
}

// So many vectors of sum_j share_j value_j.
template <typename X, int kVectors>
inline void weigh(const typename X::Lane* shares, const typename X::Lane* values, int64_t row,
                  int64_t count, typename X::Lane* out) {
  typename X::V sums[kVectors];
#pragma GCC unroll 4
  for (int n = 0; n < kVectors; ++n) sums[n] = X::set(0.0);
  for (int64_t j = 0; j < count; ++j, values += row) {
    const typename X::V share = X::set(shares[j]);
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) sums[n] = share * X::load(values + n * X::kWidth) + sums[n];
  }
#pragma GCC unroll 4
  for (int n = 0; n < kVectors; ++n) X::store(out + n * X::kWidth, sums[n]);
}

// args.length keys; args.scratch holds as many Lanes, in whole vectors.
template <typename X>
void row_attend_one(const AttentionArgs& args) {
  using Lane = typename X::Lane;
  const Lane* query = static_cast<const Lane*>(args.query);
  const Lane* key = static_cast<const Lane*>(args.key);
  const Lane* value = static_cast<const Lane*>(args.value);
  Lane* out = static_cast<Lane*>(args.out);
  Lane* shares = static_cast<Lane*>(args.scratch);
  constexpr int64_t kLine = 64 / sizeof(Lane), kAhead = 8;
  for (int64_t j = 0; j < args.length; ++j) {
    // Keys and values lie far off, and values are wanted right after.
    for (int64_t d = 0; d < args.size; d += kLine) {
      prefetch(key + j * args.key_row + d, kAhead * args.key_row);
    }
    for (int64_t d = 0; d < args.value_size; d += kLine) prefetch(value + j * args.value_row, d);
    shares[j] =
        static_cast<Lane>(dot<X>(query, key + j * args.key_row, args.size) * (args.scale * kLog2E));
  }
  to_shares<X>(count_up<X>(), shares, args.length, whole<X>(args.length));
  int64_t d = 0;
  for (; d + 4 * X::kWidth <= args.value_size; d += 4 * X::kWidth) {
    weigh<X, 4>(shares, value + d, args.value_row, args.length, out + d);
  }
  for (; d + X::kWidth <= args.value_size; d += X::kWidth) {
    weigh<X, 1>(shares, value + d, args.value_row, args.length, out + d);
  }
  for (; d < args.value_size; ++d) {
    double sum = 0;
    for (int64_t j = 0; j < args.length; ++j) {
      sum += static_cast<double>(shares[j]) * static_cast<double>(value[j * args.value_row + d]);
    }
    out[d] = static_cast<Lane>(sum);
  }
}
