// From a runtime type to a compile-time one; float64 is the CPU's (csrc/ops/device.h refuses it).
#pragma once

#include "check.h"
#include "dispatch.h"

namespace rlhf::cuda {

// Call `body(TypeTag<T>{})` with the storage type of a floating tensor.
template <typename Body>
void dispatch_storage(const char* op, const char* argument, DType dtype, Body&& body) {
  if (dtype == DType::kFloat32) return body(TypeTag<float>{});
  if (dtype == DType::kBFloat16) return body(TypeTag<BFloat16>{});
  if (dtype == DType::kFloat16) return body(TypeTag<Half>{});
  fail(op, argument,
       std::string("must be float32, bfloat16 or float16 on CUDA, got ") + dtype_name(dtype));
}

}  // namespace rlhf::cuda
