// What the row ops read beside the logits: rows, targets, temperatures, masks.
#pragma once

#include <optional>

#include "cuda/launch.cuh"

namespace rlhf::cuda {

// The row of a block, and the index of a warp, read anew at each call: so they need not be kept
// while a row is read.
__device__ inline int64_t row_of_block() {
#ifdef __CUDA_ARCH__
  unsigned index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
#else
  return blockIdx.x;
#endif
}

__device__ inline int warp_index_anew() {
#ifdef __CUDA_ARCH__
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return static_cast<int>(thread) / kWarpSize;
#else
  return warp_index();
#endif
}

// Rows of a [N, V] tensor.
template <typename S>
struct Rows {
  explicit Rows(const TensorView& view)
      : base(view.as<S>()), stride(view.strides[0]), vocab(static_cast<int>(view.shape[1])) {}
  __device__ Rows(S* begin, int64_t distance, int columns)
      : base(begin), stride(distance), vocab(columns) {}
  __device__ S* row(int64_t index) const { return base + index * stride; }

  S* base;
  int64_t stride;
  int vocab;
};

struct Targets {
  explicit Targets(const TensorView& view)
      : ids(view.data), is_int32(view.dtype == DType::kInt32) {}
  // -1 for what is outside the vocabulary.
  __device__ int of(int64_t row, int vocab) const {
    const int64_t id =
        is_int32 ? static_cast<const int32_t*>(ids)[row] : static_cast<const int64_t*>(ids)[row];
    return id >= 0 && id < vocab ? static_cast<int>(id) : -1;
  }

  const void* ids;
  bool is_int32;
};

// One temperature for all rows, or a float32 or float64 [N].
struct Temperatures {
  Temperatures(const std::optional<TensorView>& view, double common)
      : values(view ? view->data : nullptr),
        is_double(view && view->dtype == DType::kFloat64),
        inverse(1.0 / common) {}
  // NaN for what the CPU's check refuses (ops/row_checks.cpp), so that all that follows is NaN.
  __device__ double inverse_of(int64_t row) const {
    if (values == nullptr) return inverse;
    const double value = is_double ? static_cast<const double*>(values)[row]
                                   : static_cast<const float*>(values)[row];
    return value >= 1e-4 * (1 - 1e-6) && value <= 1e30 ? 1.0 / value : NAN;
  }

  const void* values;
  bool is_double;
  double inverse;
};

inline const bool* mask_bits(const std::optional<TensorView>& mask) {
  return mask ? mask->as<const bool>() : nullptr;
}

// Without a mask every row counts.
__device__ inline bool row_counts(const bool* mask, int64_t row) {
  return mask == nullptr || mask[row];
}

}  // namespace rlhf::cuda
