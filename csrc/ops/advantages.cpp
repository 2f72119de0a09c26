// advantages: contract and dispatch.
#include "cpu/advantages.h"

#include "cuda/advantages.h"
#include "ops/estimator.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void advantages(const TensorView& scores, const TensorView& logprobs,
                const TensorView& ref_logprobs, const TensorView& values, const TensorView& mask,
                double kl_coef, const std::string& estimator, double gamma, double lam,
                bool whiten_advantages, const TensorView& advantages, const TensorView& returns,
                const TensorView& rewards, const OptionalView& workspace) {
  const char* op = "advantages";
  if (logprobs.ndim != 2) {
    fail(op, "logprobs", "must have two dimensions [B, T], got " + shape_text(logprobs));
  }
  check_tokens(op, {"logprobs", logprobs}, {{"ref_logprobs", ref_logprobs}, {"values", values}},
               mask);
  check_dtype(op, "scores", scores, {logprobs.dtype});
  check_shape(op, "scores", scores, {logprobs.shape[0]});
  check_contiguous(op, "scores", scores);
  check_same_device(op, "scores", scores, "logprobs", logprobs);
  check_not_negative(op, "kl_coef", kl_coef);
  check_finite(op, "gamma", gamma, 0.0, 1.0, "between 0 and 1");
  check_finite(op, "lam", lam, 0.0, 1.0, "between 0 and 1");
  [[maybe_unused]] double* sums =
      check_workspace(op, workspace, scores, whiten_advantages ? logprobs.numel() : 0);
  const math::KlEstimator kind = parse_estimator(op, estimator);
  const AdvantageInputs in = {scores,  logprobs, ref_logprobs, values,           mask,
                              kl_coef, gamma,    lam,          whiten_advantages};
  const AdvantageOutputs out = {advantages, returns, rewards};
  RLHF_ON_CUDA(logprobs, cuda::advantages(in, kind, out, sums));
  cpu::advantages(in, kind, out);
}

}  // namespace rlhf::ops
