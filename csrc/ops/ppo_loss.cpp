// ppo_loss: contract and dispatch.
#include "cpu/ppo_loss.h"

#include "ops/token_loss.h"

namespace rlhf::ops {

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const OptionalView& denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale) {
  const char* op = "ppo_loss";
  check_tokens(op, {"logprobs", logprobs},
               {{"old_logprobs", old_logprobs}, {"advantages", advantages}}, mask);
  check_not_negative(op, "cliprange", cliprange);
  cpu::ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange,
                read_denominator(op, denominator), loss, stats, token_grad, scale);
}

}  // namespace rlhf::ops
