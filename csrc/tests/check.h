// Checks for the C++ tests: each failure prints its place and ends the test.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor.h"

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

#define CHECK_NEAR(actual, expected, tolerance)                                                   \
  do {                                                                                            \
    const double a_ = (actual), e_ = (expected);                                                  \
    if (!(std::fabs(a_ - e_) <= (tolerance))) {                                                   \
      std::fprintf(stderr, "%s:%d: %s is %.9g, expected %.9g\n", __FILE__, __LINE__, #actual, a_, \
                   e_);                                                                           \
      std::exit(1);                                                                               \
    }                                                                                             \
  } while (false)

// The call must throw std::invalid_argument with `text` in its message.
#define CHECK_REFUSED(call, text)                    \
  do {                                               \
    std::string message_;                            \
    try {                                            \
      call;                                          \
    } catch (const std::invalid_argument& error_) {  \
      message_ = error_.what();                      \
    }                                                \
    CHECK(message_.find(text) != std::string::npos); \
  } while (false)

namespace rlhf::test {

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};

// A dense view of memory that the test owns.
template <typename T>
TensorView view_of(T* data, std::initializer_list<int64_t> shape) {
  TensorView view;
  view.data = data;
  view.dtype = DTypeOf<T>::value;
  for (int64_t size : shape) view.shape[view.ndim++] = size;
  int64_t stride = 1;
  for (int dim = view.ndim - 1; dim >= 0; --dim) {
    view.strides[dim] = stride;
    stride *= view.shape[dim];
  }
  return view;
}

template <typename T>
TensorView view_of(std::vector<T>& data) {
  return view_of(data.data(), {static_cast<int64_t>(data.size())});
}

}  // namespace rlhf::test
