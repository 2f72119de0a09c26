// What a layer's two halves share on the CPU: rows normalised, multiplied by weights in panels, and
// the gradients of all that.
//
// Threads take pieces of rows, whose sizes depend on the shapes alone; a piece stays in the
// second-level cache from its normalisation to its result. What the gradients of the weights need
// of it goes into panels, and after all pieces threads share out blocks of those gradients, each a
// product over all rows in order. So results are bitwise the same for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

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

// Dense rows [count, columns] into rows from `begin` on of panels.
template <typename T>
void to_panels(const T* from, int64_t count, int64_t columns, T* panels, int64_t begin,
               int64_t rows) {
  for (int64_t j = 0; j < columns; j += kPanelColumns) {
    const int64_t width = std::min(kPanelColumns, columns - j);
    T* to = panels + j * rows + begin * kPanelColumns;
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(from + i * columns + j, width, to + i * kPanelColumns);
    }
  }
}

// Sums over rows, of a piece each; the pieces' are added in order.
template <typename T>
class PieceSums {
 public:
  PieceSums(int64_t pieces, int64_t columns)
      : columns_(columns), sums_(static_cast<size_t>(pieces * columns)) {}
  T* of(int64_t piece) { return sums_.data() + piece * columns_; }
  // Columns from `first` on.
  void put(int64_t first, int64_t count, T* out) const {
    for (int64_t j = 0; j < count; ++j) {
      double sum = 0;
      for (size_t at = static_cast<size_t>(first + j); at < sums_.size();
           at += static_cast<size_t>(columns_)) {
        sum += static_cast<double>(sums_[at]);
      }
      out[j] = static_cast<T>(sum);
    }
  }

 private:
  int64_t columns_;
  std::vector<T> sums_;
};

template <typename T>
void add(const T* one, const T* other, int64_t count, T* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = one[j] + other[j];
}

template <typename T>
void add_rows(const T* from, int64_t row, int64_t count, int64_t columns, T* sums) {
  for (int64_t i = 0; i < count; ++i, from += row) {
    for (int64_t j = 0; j < columns; ++j) sums[j] += from[j];
  }
}

// The layer norm before a half, and its gradient.
template <typename T>
struct Norm {
  const RowFunctions& functions;
  const T* weight;
  const T* bias;
  int64_t width;
  double eps;

  // `normalized` and `scaled`, which may be the same, get a row; returns 1 / deviation.
  double forward(const T* row, T* normalized, T* scaled) const {
    const double inverse = functions.normalize(row, width, eps, normalized);
    for (int64_t j = 0; j < width; ++j) scaled[j] = normalized[j] * weight[j] + bias[j];
    return inverse;
  }
  // out = start + the gradient of the row; the weight's and the bias's are added to `sums`.
  void backward(const T* grads, const T* normalized, double inverse, const T* start, T* out,
                T* sums) const {
    for (int64_t j = 0; j < width; ++j) sums[j] += grads[j] * normalized[j];
    for (int64_t j = 0; j < width; ++j) sums[width + j] += grads[j];
    functions.normalize_gradient(grads, normalized, weight, inverse, width, start, out);
  }
};

// The gradient of a weight, x^T dy over all rows: blocks of 64 x 64, each by itself.
template <typename T>
class WeightGradient {
 public:
  // `inputs` are panels of what the weight multiplied, `upstream` of its result's gradient.
  WeightGradient(const RowFunctions& functions, const Weight<T>& grad, const T* inputs,
                 const T* upstream, int64_t rows)
      : functions_(functions), out_(grad.data), rows_(rows) {
    const bool by_row = grad.by_row();
    left_ = by_row ? inputs : upstream;
    right_ = by_row ? upstream : inputs;
    left_columns_ = by_row ? grad.in : grad.out;
    right_columns_ = by_row ? grad.out : grad.in;
  }

  int64_t blocks() const { return panel_count(left_columns_) * panel_count(right_columns_); }

  void compute(int64_t block) const {
    // The side with fewer panels goes round, so that a panel of the other stays in the cache.
    const int64_t lefts = panel_count(left_columns_), rights = panel_count(right_columns_);
    const int64_t i = lefts > rights ? block / rights : block % lefts;
    const int64_t j = lefts > rights ? block % rights : block / lefts;
    const int64_t panel = rows_ * kPanelColumns;
    PanelProduct product = {};
    product.left = left_ + i * panel;
    product.left_row = 1;
    product.left_step = kPanelColumns;
    product.left_panel = kPanelColumns * kPanelColumns;
    product.right = right_ + j * panel;
    product.out = out_ + i * kPanelColumns * right_columns_ + j * kPanelColumns;
    product.out_row = right_columns_;
    product.rows = std::min(kPanelColumns, left_columns_ - i * kPanelColumns);
    product.depth = rows_;
    product.columns = std::min(kPanelColumns, right_columns_ - j * kPanelColumns);
    functions_.multiply(product);
  }

 private:
  const RowFunctions& functions_;
  const T* left_;
  const T* right_;
  T* out_;
  int64_t rows_, left_columns_, right_columns_;
};

// Two weights in panels, which threads lay out together.
template <typename T>
struct Packed {
  void pack(const RowFunctions& functions, int64_t panel) const {
    if (panel < one.panels()) return one.pack(functions, panel, one_panels);
    other.pack(functions, panel - one.panels(), other_panels);
  }
  int64_t panels() const { return one.panels() + other.panels(); }
  Weight<T> one, other;
  T *one_panels, *other_panels;
};

// The gradients of two weights, block by block.
template <typename T>
struct WeightGradients {
  int64_t blocks() const { return one.blocks() + other.blocks(); }
  void compute(int64_t block) const {
    block < one.blocks() ? one.compute(block) : other.compute(block - one.blocks());
  }
  WeightGradient<T> one, other;
};

}  // namespace rlhf::cpu
