// shaped_rewards: contract and dispatch.
#include "cpu/shaped_rewards.h"

#include "cuda/shaped_rewards.h"
#include "ops/estimator.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    const std::string& estimator, const TensorView& rewards) {
  const char* op = "shaped_rewards";
  if (logprobs.ndim != 2) {
    fail(op, "logprobs", "must have two dimensions [B, T], got " + shape_text(logprobs));
  }
  check_tokens(op, {"logprobs", logprobs}, {{"ref_logprobs", ref_logprobs}}, mask);
  check_dtype(op, "scores", scores, {logprobs.dtype});
  check_shape(op, "scores", scores, {logprobs.shape[0]});
  check_contiguous(op, "scores", scores);
  check_same_device(op, "scores", scores, "logprobs", logprobs);
  check_not_negative(op, "kl_coef", kl_coef);
  const math::KlEstimator kind = parse_estimator(op, estimator);
  RLHF_ON_CUDA(logprobs,
               cuda::shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, kind, rewards));
  cpu::shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, kind, rewards);
}

}  // namespace rlhf::ops
