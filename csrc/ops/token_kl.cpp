// token_kl: contract and dispatch.
#include "cpu/token_kl.h"

#include "check.h"
#include "cuda/token_kl.h"
#include "ops.h"
#include "ops/device.h"
#include "ops/estimator.h"

namespace rlhf::ops {
namespace {

void check_inputs(const char* op, const TensorView& logprobs, const TensorView& ref_logprobs) {
  check_floating(op, "logprobs", logprobs);
  check_contiguous(op, "logprobs", logprobs);
  check_like(op, "ref_logprobs", ref_logprobs, "logprobs", logprobs);
  check_device(op, "logprobs", logprobs);
}

}  // namespace

void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              const std::string& estimator, const TensorView& out) {
  check_inputs("token_kl", logprobs, ref_logprobs);
  const math::KlEstimator kind = parse_estimator("token_kl", estimator);
  RLHF_ON_CUDA(logprobs, cuda::token_kl(logprobs, ref_logprobs, kind, out));
  cpu::token_kl(logprobs, ref_logprobs, kind, out);
}

void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, const std::string& estimator,
                       const TensorView& grad_logprobs) {
  const char* op = "token_kl_backward";
  check_inputs(op, logprobs, ref_logprobs);
  check_dtype(op, "grad_out", grad_out, {result_dtype(logprobs.dtype)});
  check_contiguous(op, "grad_out", grad_out);
  check_same_device(op, "grad_out", grad_out, "logprobs", logprobs);
  const math::KlEstimator kind = parse_estimator(op, estimator);
  RLHF_ON_CUDA(logprobs,
               cuda::token_kl_backward(grad_out, logprobs, ref_logprobs, kind, grad_logprobs));
  cpu::token_kl_backward(grad_out, logprobs, ref_logprobs, kind, grad_logprobs);
}

}  // namespace rlhf::ops
