// A tensor as the kernels see it: borrowed memory with shape, strides (in elements), type, device.
// Nothing here allocates or owns; Python allocates every output.
#pragma once

#include <cstdint>
#include <string>

namespace rlhf {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16, kInt32, kInt64, kBool };
enum class Device : uint8_t { kCpu, kCuda };

constexpr int kMaxDims = 8;

// Storage-only 16-bit floats; csrc/cpu/simd.h and csrc/cuda/vector.cuh convert them.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

struct TensorView {
  void* data = nullptr;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};
  DType dtype = DType::kFloat32;
  Device device = Device::kCpu;
  int device_index = 0;
  void* stream = nullptr;  // CUDA only: the stream that torch launches on now

  int64_t numel() const {
    int64_t count = 1;
    for (int dim = 0; dim < ndim; ++dim) count *= shape[dim];
    return count;
  }

  bool is_contiguous() const {
    int64_t expected = 1;
    for (int dim = ndim - 1; dim >= 0; --dim) {
      if (shape[dim] != 1 && strides[dim] != expected) return numel() == 0;
      expected *= shape[dim];
    }
    return true;
  }

  bool same_shape(const TensorView& other) const {
    if (ndim != other.ndim) return false;
    for (int dim = 0; dim < ndim; ++dim) {
      if (shape[dim] != other.shape[dim]) return false;
    }
    return true;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

inline std::string shape_text(const TensorView& view) {
  std::string text = "[";
  for (int dim = 0; dim < view.ndim; ++dim) {
    text += (dim ? ", " : "") + std::to_string(view.shape[dim]);
  }
  return text + "]";
}

}  // namespace rlhf
