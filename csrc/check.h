// Contract checks. Every message names the op, the argument, what was expected and what came.
#pragma once

#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace rlhf {

[[noreturn]] inline void fail(const char* op, const char* argument, const std::string& problem) {
  throw std::invalid_argument(std::string(op) + ": argument '" + argument + "' " + problem);
}

inline void check_dtype(const char* op, const char* argument, const TensorView& view,
                        std::initializer_list<DType> allowed) {
  std::string names;
  for (DType dtype : allowed) {
    if (view.dtype == dtype) return;
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  fail(op, argument, "must be " + names + ", got " + dtype_name(view.dtype));
}

inline void check_floating(const char* op, const char* argument, const TensorView& view) {
  check_dtype(op, argument, view,
              {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64});
}

// float64 inputs give float64 results, everything else float32.
inline DType result_dtype(DType input) {
  return input == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

inline void check_shape(const char* op, const char* argument, const TensorView& view,
                        std::initializer_list<int64_t> expected) {
  bool same = view.ndim == static_cast<int>(expected.size());
  std::string text;
  int dim = 0;
  for (int64_t size : expected) {
    if (same && view.shape[dim] != size) same = false;
    text += (dim++ ? ", " : "") + std::to_string(size);
  }
  if (!same) fail(op, argument, "must have shape [" + text + "], got " + shape_text(view));
}

inline void check_contiguous(const char* op, const char* argument, const TensorView& view) {
  if (!view.is_contiguous()) fail(op, argument, "must be contiguous; call .contiguous() on it");
}

inline std::string device_text(const TensorView& view) {
  return view.device == Device::kCpu ? "the CPU" : "cuda:" + std::to_string(view.device_index);
}

inline void check_same_device(const char* op, const char* argument, const TensorView& view,
                              const char* first_name, const TensorView& first) {
  if (view.device == first.device && view.device_index == first.device_index) return;
  fail(op, argument,
       "is on " + device_text(view) + ", but '" + first_name + "' is on " + device_text(first) +
           "; move one of them");
}

// Same shape, dtype and device as `first`, and contiguous: what the element-wise ops ask for.
inline void check_like(const char* op, const char* argument, const TensorView& view,
                       const char* first_name, const TensorView& first) {
  if (!view.same_shape(first)) {
    fail(op, argument,
         std::string("must have the shape of '") + first_name + "' " + shape_text(first) +
             ", got " + shape_text(view));
  }
  if (view.dtype != first.dtype) {
    fail(op, argument,
         std::string("must have the dtype of '") + first_name + "', " + dtype_name(first.dtype) +
             ", got " + dtype_name(view.dtype));
  }
  check_same_device(op, argument, view, first_name, first);
  check_contiguous(op, argument, view);
}

inline void check_mask(const char* op, const char* argument, const TensorView& mask,
                       const char* first_name, const TensorView& first) {
  check_dtype(op, argument, mask, {DType::kBool});
  if (!mask.same_shape(first)) {
    fail(op, argument,
         std::string("must have the shape of '") + first_name + "' " + shape_text(first) +
             ", got " + shape_text(mask));
  }
  check_same_device(op, argument, mask, first_name, first);
  check_contiguous(op, argument, mask);
}

inline void check_finite(const char* op, const char* argument, double value, double low,
                         double high, const char* range) {
  if (!(std::isfinite(value) && value >= low && value <= high)) {
    fail(op, argument, std::string("must be ") + range + ", got " + std::to_string(value));
  }
}

// Until an op has a CUDA kernel its tensors must be on the CPU.
inline void check_cpu(const char* op, const char* argument, const TensorView& view) {
  if (view.device != Device::kCpu) fail(op, argument, "must be on the CPU; no CUDA kernel exists");
}

}  // namespace rlhf
