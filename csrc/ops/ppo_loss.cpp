// ppo_loss: contract and dispatch.
#include "cpu/ppo_loss.h"

#include "cuda/ppo_loss.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const OptionalView& denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale,
              const OptionalView& workspace) {
  const char* op = "ppo_loss";
  check_tokens(op, {"logprobs", logprobs},
               {{"old_logprobs", old_logprobs}, {"advantages", advantages}}, mask);
  check_not_negative(op, "cliprange", cliprange);
  check_denominator(op, denominator, {"logprobs", logprobs});
  [[maybe_unused]] double* sums = check_workspace(op, workspace, logprobs, logprobs.numel());
  RLHF_ON_CUDA(logprobs, cuda::ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange,
                                        denominator_pointer(denominator), loss, stats, token_grad,
                                        scale, sums));
  cpu::ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange,
                read_denominator(op, denominator), loss, stats, token_grad, scale);
}

}  // namespace rlhf::ops
