// From a runtime type to a compile-time one.
#pragma once

#include "check.h"
#include "tensor.h"

namespace rlhf {

template <typename T>
struct TypeTag {
  using type = T;
};

// Call `body(TypeTag<T>{})` with the element type of a floating tensor.
template <typename Body>
void dispatch_floating(const char* op, const char* argument, DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(TypeTag<float>{});
    case DType::kFloat64:
      return body(TypeTag<double>{});
    case DType::kBFloat16:
      return body(TypeTag<BFloat16>{});
    case DType::kFloat16:
      return body(TypeTag<Half>{});
    default:
      fail(op, argument, std::string("must be floating point, got ") + dtype_name(dtype));
  }
}

// The same for ops whose inputs Python has already converted to their arithmetic type.
template <typename Body>
void dispatch_compute(const char* op, const char* argument, DType dtype, Body&& body) {
  if (dtype == DType::kFloat32) return body(TypeTag<float>{});
  if (dtype == DType::kFloat64) return body(TypeTag<double>{});
  fail(op, argument, std::string("must be float32 or float64, got ") + dtype_name(dtype));
}

// The arithmetic type of an element type: double for double, else float.
template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <typename T>
using compute_t = typename Compute<T>::type;

}  // namespace rlhf
