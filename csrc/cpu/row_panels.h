// Products with a matrix that lies in panels of 64 columns, so that its rows are read one after the
// other: six rows and a few vectors of the result at a time in registers, whose sums run over a
// stretch of the depth in order; stretches are added in order to what the result starts with. A
// number of the result therefore has the same bits whatever rows stand beside its own.
//
// Included by row_body.h inside an anonymous namespace, after row_product.h; see there.

// A matrix [rows, columns] whose element (k, j) lies k * row + j * column in; one of the two is 1.
template <typename T>
void row_pack(const void* matrix, int64_t row, int64_t column, int64_t rows, int64_t columns,
              void* panels) {
  const T* from = static_cast<const T*>(matrix);
  T* to = static_cast<T*>(panels);
  for (int64_t j = 0; j < columns; j += kPanelColumns, to += rows * kPanelColumns) {
    const int64_t width = columns - j < kPanelColumns ? columns - j : kPanelColumns;
    if (column == 1) {
      for (int64_t k = 0; k < rows; ++k) {
        __builtin_memcpy(to + k * kPanelColumns, from + k * row + j,
                         static_cast<size_t>(width) * sizeof(T));
      }
    } else {
      turn(from + j * column, column, width, rows, to, kPanelColumns);
    }
  }
}

template <typename X, int kRows, int kVectors>
__attribute__((always_inline)) inline void panel_tile(const PanelProduct& p,
                                                      const typename X::Lane* left,
                                                      const typename X::Lane* right,
                                                      const typename X::Lane* start,
                                                      typename X::Lane* out) {
  constexpr int64_t kAhead = 16;                        // steps of the depth
  constexpr int kLine = 64 / sizeof(typename X::Lane);  // numbers in a line of the cache
  typename X::V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) sums[i][n] = X::set(0.0);
  }
  for (int64_t begin = 0; begin < p.depth; begin += kPanelColumns, left += p.left_panel) {
    const int64_t steps = p.depth - begin < kPanelColumns ? p.depth - begin : kPanelColumns;
    for (int64_t k = 0; k < steps; ++k, right += kPanelColumns) {
      // Past the last row this is no error.
      prefetch(left + k * p.left_step, kAhead * p.left_step);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors * X::kWidth; n += kLine) {
        prefetch(right + n, kAhead * kPanelColumns);
      }
      typename X::V b[kVectors];
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) b[n] = X::load(right + n * X::kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const typename X::V a = X::set(left[i * p.left_row + k * p.left_step]);
#pragma GCC unroll 8
        for (int n = 0; n < kVectors; ++n) sums[i][n] = a * b[n] + sums[i][n];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const typename X::V sum = sums[i][n];
      X::store(out + i * p.out_row + n * X::kWidth,
               start ? X::load(start + i * p.start_row + n * X::kWidth) + sum : sum);
    }
  }
}

// `columns` of a panel, of kRows rows.
template <typename X, int kRows>
__attribute__((noinline)) void panel_rows(const PanelProduct& p, const typename X::Lane* left,
                                          const typename X::Lane* right,
                                          const typename X::Lane* start, typename X::Lane* out,
                                          int64_t columns) {
  constexpr int kMost = X::kWidth == 16 ? 4 : 2;  // registers for sums
  int64_t j = 0;
  const auto from = [&](int64_t place) { return start ? start + place : nullptr; };
  for (; j + kMost * X::kWidth <= columns; j += kMost * X::kWidth) {
    panel_tile<X, kRows, kMost>(p, left, right + j, from(j), out + j);
  }
  for (; j < columns; j += X::kWidth) {
    panel_tile<X, kRows, 1>(p, left, right + j, from(j), out + j);
  }
}

// All rows of the result, from one stretch of the depth.
template <typename X>
inline void multiply_stretch(const PanelProduct& p, int64_t panel, int64_t columns) {
  using Lane = typename X::Lane;
  constexpr decltype(&panel_rows<X, 1>) kBy[] = {panel_rows<X, 1>, panel_rows<X, 2>,
                                                 panel_rows<X, 3>, panel_rows<X, 4>,
                                                 panel_rows<X, 5>, panel_rows<X, 6>};
  const Lane* left = static_cast<const Lane*>(p.left);
  const Lane* right = static_cast<const Lane*>(p.right) + panel * p.right_panel;
  const Lane* start = static_cast<const Lane*>(p.start);
  Lane* out = static_cast<Lane*>(p.out) + panel * p.out_panel;
  for (int64_t i = 0; i < p.rows; i += kTileRows) {
    const int64_t count = p.rows - i < kTileRows ? p.rows - i : kTileRows;
    kBy[count - 1](p, left + i * p.left_row, right,
                   start ? start + i * p.start_row + panel * p.start_panel : nullptr,
                   out + i * p.out_row, columns);
  }
}

template <typename X>
void row_multiply(const PanelProduct& product) {
  using Lane = typename X::Lane;
  constexpr int64_t kStretchPanels = 8;  // so many rows of a panel stay in the second-level cache
  constexpr int64_t kStretch = kStretchPanels * kPanelColumns;
  for (int64_t j = 0; j < product.columns; j += kPanelColumns) {
    const int64_t columns =
        product.columns - j < kPanelColumns ? product.columns - j : kPanelColumns;
    PanelProduct part = product;
    int64_t k = 0;
    do {  // once without a depth too, for the start
      part.depth = product.depth - k < kStretch ? product.depth - k : kStretch;
      multiply_stretch<X>(part, j / kPanelColumns, columns);
      part.left = static_cast<const Lane*>(part.left) + kStretchPanels * part.left_panel;
      part.right = static_cast<const Lane*>(part.right) + kStretch * kPanelColumns;
      part.start = part.out;
      part.start_row = part.out_row;
      part.start_panel = part.out_panel;
      k += kStretch;
    } while (k < product.depth);
  }
}
