// read_probe: contract of the benchmark's probe of a device's memory.
#include "cuda/read_probe.h"

#include "ops.h"
#include "ops/device.h"

namespace rlhf::ops {

void read_probe(const TensorView& tensor, const TensorView& out) {
  const char* op = "read_probe";
  check_dtype(op, "tensor", tensor, {DType::kFloat32});
  check_contiguous(op, "tensor", tensor);
  check_device(op, "tensor", tensor);
  check_dtype(op, "out", out, {DType::kFloat32});
  check_same_device(op, "out", out, "tensor", tensor);
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0) {
    fail(op, "tensor", "must start at a multiple of 16 bytes; pass a whole tensor");
  }
  if (out.numel() < 1) fail(op, "out", "must have at least one element");
  RLHF_ON_CUDA(tensor, cuda::read_probe(tensor, out));
  fail(op, "tensor", "must be on a CUDA device: the probe measures its memory");
}

}  // namespace rlhf::ops
