// Products in bfloat16: both factors rounded to it, sums in fp32. The right side lies in panels of
// 64 columns like those of row_panels.h, but two rows of the depth at a time, (k, j) beside
// (k + 1, j), which is how processors that multiply bfloat16 read it. Sums run over the depth in
// order and begin with what is added to, so a number of the result has the same bits whatever rows
// stand beside its own.
//
// Included by row_body.h inside an anonymous namespace, after row_panels.h; see there.

// Pairs of one vector's columns, or one pair in every lane; X::Pairs where a processor has its own.
template <typename X>
struct WidePairs {
  typename X::V even, odd;
  static WidePairs load(const Bf16* pairs) {
    WidePairs both;
    X::load_even_odd(pairs, &both.even, &both.odd);
    return both;
  }
  static WidePairs set(uint32_t bits) {
    return {X::set(from_bits(bits << 16)), X::set(from_bits(bits & 0xffff0000))};
  }
  static typename X::V add(typename X::V sum, const WidePairs& a, const WidePairs& b) {
    return a.odd * b.odd + (a.even * b.even + sum);
  }
};
template <typename X, typename = void>
struct PairsOf {
  using Type = WidePairs<X>;
};
template <typename X>
struct PairsOf<X, decltype(static_cast<void>(sizeof(typename X::Pairs)))> {
  using Type = typename X::Pairs;
};

template <typename X>
void pairs_round(const void* from, int64_t row, int64_t panel, int64_t rows, int64_t depth,
                 void* to) {
  const int64_t across = ((rows + kPairRows - 1) & -kPairRows) * kPairDepth;
  for (int64_t i = 0; i < rows; ++i) {
    const float* x = static_cast<const float*>(from) + i * row;
    Bf16* out = static_cast<Bf16*>(to) + i * kPairDepth;
    const auto at = [&](int64_t k) { return out + k / kPairDepth * across + k % kPairDepth; };
    for (int64_t k = 0; k < depth; k += X::kWidth) {
      X::store(at(k), X::load(x + k / kPanelColumns * panel + k % kPanelColumns));
    }
    for (int64_t k = depth; k % kPairDepth != 0; ++k) *at(k) = {0};
  }
}

inline uint32_t bfloat_bits(float value) {
  const uint32_t bits = to_bits(value), rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return (value != value ? bits | 0x400000 : rounded) >> 16;
}

// Rows k and k + 1 of a matrix as pairs; zeros for rows from `rows` on, and from `columns` to 64.
inline void pair_up(const float* from, int64_t row, int64_t column, int64_t k, int64_t rows,
                    int64_t columns, uint32_t* pairs) {
  const float *even = from + k * row, *odd = even + row;
  if (k + 1 < rows && column == 1 && columns == kPanelColumns) {
    for (int64_t j = 0; j < kPanelColumns; ++j) {
      pairs[j] = bfloat_bits(even[j]) | bfloat_bits(odd[j]) << 16;
    }
    return;
  }
  for (int64_t j = 0; j < kPanelColumns; ++j) {
    const bool there = j < columns && k < rows;
    const uint32_t first = there ? bfloat_bits(even[j * column]) : 0;
    pairs[j] = first | (there && k + 1 < rows ? bfloat_bits(odd[j * column]) : 0) << 16;
  }
}

inline void pairs_pack(const void* matrix, int64_t row, int64_t column, int64_t rows,
                       int64_t columns, void* panels) {
  const float* from = static_cast<const float*>(matrix);
  uint32_t* to = static_cast<uint32_t*>(panels);
  for (int64_t j = 0; j < columns; j += kPanelColumns) {
    const int64_t width = columns - j < kPanelColumns ? columns - j : kPanelColumns;
    for (int64_t k = 0; k < rows || k % kPairDepth != 0; k += 2, to += kPanelColumns) {
      pair_up(from + j * column, row, column, k, rows, width, to);
    }
  }
}

inline void pairs_turn(const void* from, int64_t row, int64_t rows, int64_t columns, void* to) {
  uint32_t pairs[kPairDepth / 2 * kPanelColumns];
  uint32_t* out = static_cast<uint32_t*>(to);
  for (int64_t begin = 0; begin < rows; begin += kPairDepth) {
    for (int64_t k = 0; k < kPairDepth; k += 2) {
      pair_up(static_cast<const float*>(from), row, 1, begin + k, rows, columns,
              pairs + k / 2 * kPanelColumns);
    }
    turn(pairs, kPanelColumns, kPairDepth / 2, kPanelColumns, out, kPairDepth / 2);
    out += kPairDepth / 2 * kPanelColumns;
  }
}

template <typename X, int kRows, int kVectors>
__attribute__((always_inline)) inline void pairs_tile(const PanelProduct& p, const uint32_t* left,
                                                      const Bf16* right, const float* start,
                                                      float* out) {
  using Pairs = typename PairsOf<X>::Type;
  constexpr int64_t kAhead = 32;  // pairs of the depth
  typename X::V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      sums[i][n] = start ? X::load(start + i * p.start_row + n * X::kWidth) : X::set(0.0);
    }
  }
  for (int64_t k = 0; k < p.depth / 2; ++k, right += 2 * kPanelColumns, ++left) {
    if (k > 0 && k % (kPairDepth / 2) == 0) left += (p.left_panel - kPairDepth) / 2;
    Pairs b[kVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      prefetch(right + 2 * n * X::kWidth, kAhead * 2 * kPanelColumns);
      b[n] = Pairs::load(right + 2 * n * X::kWidth);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      uint32_t bits;
      __builtin_memcpy(&bits, left + i * p.left_row / 2, sizeof(bits));
      const Pairs a = Pairs::set(bits);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) sums[i][n] = Pairs::add(sums[i][n], a, b[n]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) X::store(out + i * p.out_row + n * X::kWidth, sums[i][n]);
  }
}

// `columns` of a panel, of kRows rows.
template <typename X, int kRows>
__attribute__((noinline)) void pairs_rows(const PanelProduct& p, const uint32_t* left,
                                          const Bf16* right, const float* start, float* out,
                                          int64_t columns) {
  constexpr int kMost = X::kWidth == 16 ? 4 : 1;  // registers for sums
  int64_t j = 0;
  const auto from = [&](int64_t place) { return start ? start + place : nullptr; };
  for (; j + kMost * X::kWidth <= columns; j += kMost * X::kWidth) {
    pairs_tile<X, kRows, kMost>(p, left, right + 2 * j, from(j), out + j);
  }
  for (; j < columns; j += X::kWidth) {
    pairs_tile<X, kRows, 1>(p, left, right + 2 * j, from(j), out + j);
  }
}

template <typename X>
void pairs_multiply(const PanelProduct& p) {
  constexpr decltype(&pairs_rows<X, 1>) kBy[] = {pairs_rows<X, 1>, pairs_rows<X, 2>,
                                                 pairs_rows<X, 3>, pairs_rows<X, 4>,
                                                 pairs_rows<X, 5>, pairs_rows<X, 6>};
  for (int64_t j = 0; j < p.columns; j += kPanelColumns) {
    const int64_t panel = j / kPanelColumns;
    const int64_t columns = p.columns - j < kPanelColumns ? p.columns - j : kPanelColumns;
    const Bf16* right = static_cast<const Bf16*>(p.right) + panel * p.right_panel;
    const float* start = static_cast<const float*>(p.start);
    float* out = static_cast<float*>(p.out) + panel * p.out_panel;
    for (int64_t i = 0; i < p.rows; i += kTileRows) {
      const int64_t count = p.rows - i < kTileRows ? p.rows - i : kTileRows;
      kBy[count - 1](p, reinterpret_cast<const uint32_t*>(p.left) + i * p.left_row / 2, right,
                     start ? start + i * p.start_row + panel * p.start_panel : nullptr,
                     out + i * p.out_row, columns);
    }
  }
}

template <typename X, typename S>
constexpr PairFunctions pairs_functions() {
  if constexpr (kIsBf16<S>) {
    return {pairs_round<X>, pairs_turn, pairs_pack, pairs_multiply<X>};
  } else {
    return {};
  }
}
