// Which column an op goes to, by the device of its first tensor.
#pragma once

#include "check.h"
#include "ops.h"

#ifdef RLHF_KERNELS_WITH_CUDA
// Calls `call` and returns when `view` is on a CUDA device.
#define RLHF_ON_CUDA(view, call)          \
  do {                                    \
    if ((view).device == Device::kCuda) { \
      call;                               \
      return;                             \
    }                                     \
  } while (false)
#else
#define RLHF_ON_CUDA(view, call) \
  do {                           \
  } while (false)
#endif

namespace rlhf::ops {

#ifdef RLHF_KERNELS_WITH_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

// The tensor that decides: on the CPU, or on a CUDA device in a type that the kernels there have.
inline void check_device(const char* op, const char* argument, const TensorView& view) {
  if (view.device != Device::kCuda) return;
  if (!kHasCuda) {
    fail(op, argument,
         "is on a CUDA device, but this build of rlhf_kernels has no CUDA kernels: build it again "
         "with nvcc on PATH (RLHF_KERNELS_CUDA=ON), or call .cpu() on it");
  }
  if (view.dtype == DType::kFloat64) {
    fail(op, argument, "is float64 on a CUDA device; call .float() or .cpu() on it");
  }
}

// The workspace that a CUDA call needs; the CPU gets none.
inline double* check_workspace(const char* op, const OptionalView& workspace,
                               const TensorView& first, int64_t items) {
  const int64_t size = workspace_size(op, first, items);
  if (size == 0) return nullptr;
  if (!workspace) fail(op, "workspace", "is missing");
  check_dtype(op, "workspace", *workspace, {DType::kFloat64});
  check_shape(op, "workspace", *workspace, {size});
  check_same_device(op, "workspace", *workspace, "the first argument", first);
  return workspace->as<double>();
}

}  // namespace rlhf::ops
