// loss_gradient: contract and dispatch.
#include "cpu/loss_gradient.h"

#include "cuda/loss_gradient.h"
#include "ops/token_loss.h"

namespace rlhf::ops {
namespace {

double read_number(const TensorView& view) {
  return view.dtype == DType::kFloat64 ? *view.as<const double>() : *view.as<const float>();
}

}  // namespace

void loss_gradient(const TensorView& grad, const TensorView& upstream, const TensorView& scale,
                   const TensorView& out) {
  const char* op = "loss_gradient";
  check_dtype(op, "grad", grad, {DType::kFloat32, DType::kFloat64});
  check_contiguous(op, "grad", grad);
  check_device(op, "grad", grad);
  check_dtype(op, "upstream", upstream, {grad.dtype});
  check_dtype(op, "scale", scale, {DType::kFloat64});
  for (const NamedView& number : {NamedView{"upstream", upstream}, NamedView{"scale", scale}}) {
    check_shape(op, number.name, number.view, {});
    check_same_device(op, number.name, number.view, "grad", grad);
  }
  RLHF_ON_CUDA(grad, cuda::loss_gradient(grad, upstream, scale, out));
  cpu::loss_gradient(grad, read_number(upstream) * read_number(scale), out);
}

}  // namespace rlhf::ops
