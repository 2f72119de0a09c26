// exact_kl: contract and dispatch.
#include "cpu/exact_kl.h"

#include "cuda/exact_kl.h"
#include "ops.h"
#include "ops/device.h"
#include "ops/row_checks.h"

namespace rlhf::ops {

void exact_kl(const TensorView& logits, const TensorView& ref_logits, const OptionalView& mask,
              const OptionalView& temperatures, double temperature, const TensorView& kl,
              const TensorView& rows) {
  const char* op = "exact_kl";
  check_logits(op, "logits", logits);
  check_ref_logits(op, ref_logits, logits);
  check_row_mask(op, "mask", mask, logits);
  check_temperature(op, temperature, temperatures, logits, mask);
  check_row_values(op, "kl", kl, logits);
  check_saved(op, rows, logits);
  RLHF_ON_CUDA(logits,
               cuda::exact_kl(logits, ref_logits, mask, temperatures, temperature, kl, rows));
  cpu::exact_kl(logits, ref_logits, mask, temperatures, temperature, kl, rows);
}

void exact_kl_backward(const TensorView& grad_kl, const TensorView& logits,
                       const TensorView& ref_logits, const TensorView& kl, const TensorView& rows,
                       const TensorView& grad_logits) {
  const char* op = "exact_kl_backward";
  check_logits(op, "logits", logits);
  check_ref_logits(op, ref_logits, logits);
  check_row_values(op, "grad_kl", grad_kl, logits);
  check_row_values(op, "kl", kl, logits);
  check_saved(op, rows, logits);
  check_gradient_out(op, "grad_logits", grad_logits, logits);
  RLHF_ON_CUDA(logits, cuda::exact_kl_backward(grad_kl, logits, ref_logits, kl, rows, grad_logits));
  cpu::exact_kl_backward(grad_kl, logits, ref_logits, kl, rows, grad_logits);
}

}  // namespace rlhf::ops
