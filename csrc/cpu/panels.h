// Matrices in panels, and products with them: in the numbers' own type, or with both factors
// rounded to bfloat16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/pieces.h"
#include "cpu/rows.h"

namespace rlhf::cpu {

inline int64_t panel_count(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns;
}
// Numbers in the panels of a matrix [rows, columns].
inline int64_t panel_items(int64_t rows, int64_t columns) {
  return panel_count(columns) * rows * kPanelColumns;
}

// A weight [in, out], dense along either.
template <typename T>
struct Weight {
  explicit Weight(const TensorView& view)
      : data(view.as<T>()),
        in(view.shape[0]),
        out(view.shape[1]),
        row(view.strides[0]),
        column(view.strides[1]) {}

  // One of the panels over its columns, `in` rows each.
  void pack(const RowFunctions& functions, int64_t panel, T* panels) const {
    const int64_t first = panel * kPanelColumns;
    functions.pack(data + first * column, row, column, in, std::min(kPanelColumns, out - first),
                   panels + first * in);
  }
  Weight turned() const {
    Weight other = *this;
    std::swap(other.in, other.out);
    std::swap(other.row, other.column);
    return other;
  }
  int64_t panels() const { return panel_count(out); }
  int64_t items() const { return panel_items(in, out); }
  bool by_row() const { return column == 1; }

  T* data;
  int64_t in, out, row, column;
};

// Rows of a matrix as a product's left side.
template <typename T>
struct Left {
  // Dense rows of `columns`.
  static Left dense(const T* rows, int64_t columns) { return {rows, columns, 1, kPanelColumns}; }
  // Rows from `begin` on of panels of `rows`.
  static Left panels(const T* panels, int64_t begin, int64_t rows) {
    return {panels + begin * kPanelColumns, kPanelColumns, 1, rows * kPanelColumns};
  }
  const T* data;
  int64_t row, step, panel;
};

// Where a product's rows go, or what they start with.
template <typename T>
struct Place {
  static Place dense(T* rows, int64_t columns) { return {rows, columns, kPanelColumns}; }
  static Place panels(T* panels, int64_t begin, int64_t rows) {
    return {panels + begin * kPanelColumns, kPanelColumns, rows * kPanelColumns};
  }
  // The same numbers in every row.
  static Place each(T* row) { return {row, 0, kPanelColumns}; }
  static Place none() { return {nullptr, 0, 0}; }
  T* data;
  int64_t row, panel;
};

// out = start + left right, `right` being panels of `depth` rows.
template <typename T>
void multiply(const RowFunctions& functions, int64_t rows, int64_t depth, int64_t columns,
              const Left<T>& left, const T* right, const Place<const T>& start,
              const Place<T>& out) {
  functions.multiply({left.data, left.row, left.step, left.panel, right, depth * kPanelColumns,
                      start.data, start.row, start.panel, out.data, out.row, out.panel, rows, depth,
                      columns});
}

// The depth of a product in bfloat16, and the rows of its left side.
inline int64_t whole_depth(int64_t depth) { return (depth + kPairDepth - 1) & -kPairDepth; }
inline int64_t whole_rows(int64_t rows) { return (rows + kPairRows - 1) & -kPairRows; }

// How products are computed.
struct Precision {
  Precision(DType dtype, bool lowered)
      : functions(row_functions_for(dtype)),
        pairs(row_functions_for(DType::kBFloat16).pairs),
        lowered(lowered) {}
  // So many numbers of bfloat16 in the place of Ts.
  template <typename T>
  static int64_t rounded(int64_t count) {
    return count * static_cast<int64_t>(sizeof(BFloat16)) / static_cast<int64_t>(sizeof(T));
  }
  // Ts for the left side of one product.
  template <typename T>
  int64_t left_items(int64_t rows, int64_t depth) const {
    return lowered ? rounded<T>(whole_rows(rows) * whole_depth(depth)) : 0;
  }
  const RowFunctions& functions;
  const PairFunctions& pairs;
  bool lowered;
};

// A weight in panels, of pairs of bfloat16 where products are lowered: as it was given, or to be
// laid out before anything else.
template <typename T>
struct Matrix {
  explicit Matrix(const Weight<T>& weight) : in(weight.in), out(weight.out), given(weight) {}
  Matrix(const TensorView& view, int64_t in, int64_t out)
      : in(in), out(out), given(view), panels(view.ndim == 3 ? view.data : nullptr) {}
  // What is to be done for it.
  int64_t items(const Precision& precision) const {
    if (panels != nullptr) return 0;
    return Room<T>::items({precision.lowered
                               ? Precision::rounded<T>(panel_items(whole_depth(in), out))
                               : panel_items(in, out)});
  }
  int64_t panels_to_lay() const { return panels != nullptr ? 0 : panel_count(out); }
  void take(const Precision& precision, Room<T, Use::kPanels>& room) {
    if (panels == nullptr) panels = laid = room.take(items(precision));
  }
  void lay(const Precision& precision, int64_t panel) const {
    if (!precision.lowered) return given.pack(precision.functions, panel, laid);
    const int64_t first = panel * kPanelColumns;
    precision.pairs.pack(given.data + first * given.column, given.row, given.column, in,
                         std::min(kPanelColumns, out - first),
                         reinterpret_cast<BFloat16*>(laid) + first * whole_depth(in));
  }
  int64_t in, out;
  Weight<T> given;
  const void* panels = nullptr;
  T* laid = nullptr;
};

// out = start + left weight. `rounded` has room for left_items() where products are lowered.
template <typename T>
void multiply(const Precision& precision, const Matrix<T>& weight, int64_t rows,
              const Left<T>& left, const Place<const T>& start, const Place<T>& out, T* rounded) {
  if (!precision.lowered) {
    return multiply<T>(precision.functions, rows, weight.in, weight.out, left,
                       static_cast<const T*>(weight.panels), start, out);
  }
  const int64_t depth = whole_depth(weight.in);
  precision.pairs.round(left.data, left.row, left.panel, rows, weight.in, rounded);
  precision.pairs.multiply({rounded, kPairDepth, 1, whole_rows(rows) * kPairDepth, weight.panels,
                            depth * kPanelColumns, start.data, start.row, start.panel, out.data,
                            out.row, out.panel, rows, depth, weight.out});
}

// Two weights that threads lay out together.
template <typename T>
struct Packed {
  Packed(const Weight<T>& one, const Weight<T>& other) : one(one), other(other) {}
  int64_t items(const Precision& precision) const {
    return one.items(precision) + other.items(precision);
  }
  void take(const Precision& precision, Room<T, Use::kPanels>& room) {
    first = one.panels_to_lay();
    count = first + other.panels_to_lay();
    one.take(precision, room);
    other.take(precision, room);
  }
  void lay(const Precision& precision, int64_t panel) const {
    panel < first ? one.lay(precision, panel) : other.lay(precision, panel - first);
  }
  Matrix<T> one, other;
  int64_t first = 0, count = 0;
};

}  // namespace rlhf::cpu
