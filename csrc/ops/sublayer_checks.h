// Contract of a layer's halves: rows of whole vectors, a layer norm, weights dense along either.
#pragma once

#include <cmath>

#include "check.h"
#include "cpu/row_table.h"

namespace rlhf::ops {

inline void check_dense(const char* op, const char* argument, const TensorView& view, DType dtype) {
  check_dtype(op, argument, view, {dtype});
  check_cpu(op, argument, view);
  check_contiguous(op, argument, view);
}

inline void check_vector(const char* op, const char* argument, const TensorView& view, int64_t size,
                         DType dtype) {
  check_dense(op, argument, view, dtype);
  check_shape(op, argument, view, {size});
}

inline void check_weight(const char* op, const char* argument, const TensorView& view, int64_t in,
                         int64_t out, DType dtype) {
  check_dtype(op, argument, view, {dtype});
  check_cpu(op, argument, view);
  check_shape(op, argument, view, {in, out});
  const bool by_row = view.strides[0] == out && view.strides[1] == 1;
  const bool by_column = view.strides[0] == 1 && view.strides[1] == in;
  if (!by_row && !by_column) {
    fail(op, argument, "must be contiguous, or the transpose of a contiguous matrix");
  }
}

inline void check_whole(const char* op, const char* argument, const TensorView& view, int dim) {
  if (view.shape[dim] < 1 || view.shape[dim] % cpu::kWholeColumns != 0) {
    fail(op, argument,
         "must have a multiple of " + std::to_string(cpu::kWholeColumns) + " columns, got " +
             shape_text(view));
  }
}

inline void check_hidden(const char* op, const TensorView& hidden, int ndim) {
  check_dtype(op, "hidden", hidden, {DType::kFloat32, DType::kFloat64});
  check_dense(op, "hidden", hidden, hidden.dtype);
  if (hidden.ndim != ndim) {
    fail(op, "hidden",
         "must have " + std::to_string(ndim) + " dimensions, got " + shape_text(hidden));
  }
  check_whole(op, "hidden", hidden, ndim - 1);
}

inline void check_heads(const char* op, const TensorView& hidden, int64_t heads) {
  const int64_t width = hidden.shape[2];
  if (heads < 1 || width % heads != 0) {
    fail(op, "heads",
         "must divide the " + std::to_string(width) + " columns of 'hidden', got " +
             std::to_string(heads));
  }
}

inline void check_lowered(const char* op, const TensorView& hidden, bool lowered) {
  if (lowered && hidden.dtype != DType::kFloat32) {
    fail(op, "bf16", "takes hidden states in float32 alone");
  }
}

inline void check_eps(const char* op, double eps) {
  check_finite(op, "eps", eps, 0.0, 1.0, "in [0, 1]");
}

}  // namespace rlhf::ops
