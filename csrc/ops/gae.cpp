// gae: contract and dispatch.
#include "cpu/gae.h"

#include "cuda/gae.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns, const OptionalView& workspace) {
  const char* op = "gae";
  if (rewards.ndim != 2) {
    fail(op, "rewards", "must have two dimensions [B, T], got " + shape_text(rewards));
  }
  check_tokens(op, {"rewards", rewards}, {{"values", values}}, mask);
  check_finite(op, "gamma", gamma, 0.0, 1.0, "between 0 and 1");
  check_finite(op, "lam", lam, 0.0, 1.0, "between 0 and 1");
  [[maybe_unused]] double* sums =
      check_workspace(op, workspace, rewards, whiten_advantages ? rewards.numel() : 0);
  RLHF_ON_CUDA(rewards, cuda::gae(rewards, values, mask, gamma, lam, whiten_advantages, advantages,
                                  returns, sums));
  cpu::gae(rewards, values, mask, gamma, lam, whiten_advantages, advantages, returns);
}

}  // namespace rlhf::ops
