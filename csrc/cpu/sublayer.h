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
#include <vector>

#include "cpu/weight_gradient.h"

namespace rlhf::cpu {

// Rows of a piece: enough to use weights well, the more where those leave the cache and are read
// again for every piece. Products in bfloat16 want whole tiles, and leave the cache less.
inline int64_t piece_of_rows(const Precision& precision, int64_t rows, int64_t unit,
                             int64_t weights) {
  if (precision.lowered) return piece_rows(rows, unit, 128);
  return piece_rows(rows, unit, weights > (1 << 16) ? 192 : 48);
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

}  // namespace rlhf::cpu
