// gather_logprobs: contract and dispatch.
#include "cpu/gather_logprobs.h"

#include "cuda/gather_logprobs.h"
#include "ops.h"
#include "ops/device.h"
#include "ops/row_checks.h"

namespace rlhf::ops {

void gather_logprobs(const TensorView& logits, const TensorView& targets, const OptionalView& mask,
                     const OptionalView& temperatures, double temperature,
                     const TensorView& logprobs, const TensorView& entropy,
                     const TensorView& logsumexp, const TensorView& rows) {
  const char* op = "gather_logprobs";
  check_logits(op, "logits", logits);
  check_row_mask(op, "mask", mask, logits);
  check_targets(op, targets, logits, mask);
  check_temperature(op, temperature, temperatures, logits, mask);
  check_row_values(op, "logprobs", logprobs, logits);
  check_row_values(op, "entropy", entropy, logits);
  check_row_values(op, "logsumexp", logsumexp, logits);
  check_saved(op, rows, logits);
  RLHF_ON_CUDA(logits, cuda::gather_logprobs({logits, targets, mask, temperatures, temperature},
                                             logprobs, entropy, logsumexp, rows));
  cpu::gather_logprobs({logits, targets, mask, temperatures, temperature}, logprobs, entropy,
                       logsumexp, rows);
}

void gather_logprobs_backward(const TensorView& grad_logprobs, const TensorView& grad_entropy,
                              const TensorView& grad_logsumexp, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits) {
  const char* op = "gather_logprobs_backward";
  check_logits(op, "logits", logits);
  check_row_values(op, "grad_logprobs", grad_logprobs, logits);
  check_row_values(op, "grad_entropy", grad_entropy, logits);
  check_row_values(op, "grad_logsumexp", grad_logsumexp, logits);
  check_saved(op, rows, logits);
  check_saved_targets(op, targets, rows, logits);
  check_gradient_out(op, "grad_logits", grad_logits, logits);
  RLHF_ON_CUDA(logits, cuda::gather_logprobs_backward({grad_logprobs, grad_entropy, grad_logsumexp},
                                                      logits, targets, rows, grad_logits));
  cpu::gather_logprobs_backward({grad_logprobs, grad_entropy, grad_logsumexp}, logits, targets,
                                rows, grad_logits);
}

}  // namespace rlhf::ops
