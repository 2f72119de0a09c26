// The gradient of a weight, x^T dy over all rows: both sides are kept while pieces of rows go by,
// then come blocks of 64 x 64, each by itself.
#pragma once

#include "cpu/panels.h"

namespace rlhf::cpu {

// Rows in pieces as a weight's gradient sums over them. Where products are lowered every piece
// is filled up with zeros to whole depths, so that pieces are rounded apart from each other.
struct Depth {
  Depth(const Precision& precision, int64_t rows, int64_t piece)
      : piece(piece),
        padded(precision.lowered ? whole_depth(piece) : piece),
        all(rows / piece * padded +
            (precision.lowered ? whole_depth(rows % piece) : rows % piece)) {}
  int64_t at(int64_t begin) const { return begin / piece * padded; }
  int64_t piece, padded, all;
};

// Rows of panels of `rows` rows; `data` is where the first of them begins.
template <typename T>
struct PanelRows {
  T* at(int64_t panel) const { return data + panel * rows * kPanelColumns; }
  Left<T> left() const { return Left<T>::panels(data, 0, rows); }
  Place<T> place() const { return Place<T>::panels(data, 0, rows); }
  T* data;
  int64_t rows;
};

// All rows of one side: panels of them, or rounded as that side of a product.
template <typename T>
class Side {
 public:
  Side(const Precision& precision, const Depth& depth, int64_t columns, bool is_left)
      : precision_(precision), depth_(depth), columns_(columns), is_left_(is_left) {}

  int64_t items() const {
    const int64_t numbers = panel_items(depth_.all, columns_);
    return Room<T>::items({precision_.lowered ? Precision::rounded<T>(numbers) : numbers});
  }
  void take(Room<T, Use::kPanels>& room) { data_ = room.take(items()); }

  // Where rows from `begin` on may be made, for `put` to find them: in place where they are kept as
  // they are, else in `own`, of `count` rows.
  PanelRows<T> rows(T* own, int64_t begin, int64_t count) const {
    if (precision_.lowered) return {own, count};
    return {data_ + begin * kPanelColumns, depth_.all};
  }
  void put(const Left<T>& from, int64_t begin, int64_t count) const {
    for (int64_t p = 0; p < panel_count(columns_); ++p) {
      const int64_t width = std::min(kPanelColumns, columns_ - p * kPanelColumns);
      const T* rows = from.data + p * from.panel;
      if (precision_.lowered) {
        BFloat16* to = reinterpret_cast<BFloat16*>(data_) +
                       (p * depth_.all + depth_.at(begin)) * kPanelColumns;
        is_left_ ? precision_.pairs.turn(rows, from.row, count, width, to)
                 : precision_.pairs.pack(rows, from.row, 1, count, width, to);
        continue;
      }
      T* to = data_ + (p * depth_.all + begin) * kPanelColumns;
      if (to == rows) return;
      for (int64_t i = 0; i < count; ++i) {
        std::copy_n(rows + i * from.row, width, to + i * kPanelColumns);
      }
    }
  }

  // A panel as a product's left or right side, whose columns it is to be.
  void be_left(int64_t panel, PanelProduct* product) const {
    product->rows = std::min(kPanelColumns, columns_ - panel * kPanelColumns);
    product->depth = depth_.all;
    product->left = at(panel);
    product->left_row = precision_.lowered ? kPairDepth : 1;
    product->left_step = precision_.lowered ? 1 : kPanelColumns;
    product->left_panel = kPanelColumns * (precision_.lowered ? kPairDepth : kPanelColumns);
  }
  void be_right(int64_t panel, PanelProduct* product) const {
    product->columns = std::min(kPanelColumns, columns_ - panel * kPanelColumns);
    product->right = at(panel);
  }
  int64_t columns() const { return columns_; }

 private:
  const void* at(int64_t panel) const {
    const int64_t place = panel * depth_.all * kPanelColumns;
    if (precision_.lowered) return reinterpret_cast<const BFloat16*>(data_) + place;
    return data_ + place;
  }

  const Precision& precision_;
  const Depth& depth_;
  int64_t columns_;
  bool is_left_;
  T* data_ = nullptr;
};

template <typename T>
class WeightGradient {
 public:
  WeightGradient(const Precision& precision, const Depth& depth, const TensorView& grad)
      : WeightGradient(precision, depth, Weight<T>(grad)) {}

  int64_t items() const { return inputs.items() + upstream.items(); }
  void take(Room<T, Use::kPanels>& room) {
    inputs.take(room);
    upstream.take(room);
  }
  int64_t blocks() const { return panel_count(inputs.columns()) * panel_count(upstream.columns()); }
  void compute(int64_t block) const {
    const Side<T>&left = by_row_ ? inputs : upstream, &right = by_row_ ? upstream : inputs;
    // The side with fewer panels goes round, so that a panel of the other stays in the cache.
    const int64_t lefts = panel_count(left.columns()), rights = panel_count(right.columns());
    const int64_t i = lefts > rights ? block / rights : block % lefts;
    const int64_t j = lefts > rights ? block % rights : block / lefts;
    PanelProduct product = {};
    left.be_left(i, &product);
    right.be_right(j, &product);
    product.out = out_ + (i * right.columns() + j) * kPanelColumns;
    product.out_row = right.columns();
    precision_.lowered ? precision_.pairs.multiply(product)
                       : precision_.functions.multiply(product);
  }

 private:
  WeightGradient(const Precision& precision, const Depth& depth, const Weight<T>& grad)
      : inputs(precision, depth, grad.in, grad.by_row()),
        upstream(precision, depth, grad.out, !grad.by_row()),
        precision_(precision),
        by_row_(grad.by_row()),
        out_(grad.data) {}

 public:
  Side<T> inputs;    // what the weight multiplied
  Side<T> upstream;  // the gradient of what came of it

 private:
  const Precision& precision_;
  bool by_row_;
  T* out_;
};

// The gradients of two weights, block by block.
template <typename T>
struct WeightGradients {
  WeightGradients(const Precision& precision, const Depth& depth, const TensorView& one,
                  const TensorView& other)
      : one(precision, depth, one), other(precision, depth, other) {}
  int64_t items() const { return one.items() + other.items(); }
  void take(Room<T, Use::kPanels>& room) {
    one.take(room);
    other.take(room);
  }
  int64_t blocks() const { return one.blocks() + other.blocks(); }
  void compute(int64_t block) const {
    block < one.blocks() ? one.compute(block) : other.compute(block - one.blocks());
  }
  WeightGradient<T> one, other;
};

// What a half's gradient holds over all rows: both sides of its weights' gradients, and the weights
// turned, in panels.
template <typename T>
struct BackwardPanels {
  BackwardPanels(const Precision& precision, int64_t rows, int64_t piece, const Weight<T>& one,
                 const Weight<T>& other, const TensorView& grad_one, const TensorView& grad_other)
      : depth(precision, rows, piece),
        weights(precision, depth, grad_one, grad_other),
        packed(one.turned(), other.turned()),
        room(weights.items() + packed.items(precision)) {
    weights.take(room);
    packed.take(precision, room);
  }
  Depth depth;
  WeightGradients<T> weights;
  Packed<T> packed;
  Room<T, Use::kPanels> room;
};

}  // namespace rlhf::cpu
