// advantages on the CPU: shaped_rewards and gae one after the other, with the bits of the two
// calls. The rewards, read again, are in a cache for the rows that a thread has just written.
#include "cpu/advantages.h"

#include "cpu/gae.h"
#include "cpu/shaped_rewards.h"

namespace rlhf::cpu {

void advantages(const AdvantageInputs& in, math::KlEstimator estimator,
                const AdvantageOutputs& out) {
  shaped_rewards(in.scores, in.logprobs, in.ref_logprobs, in.mask, in.kl_coef, estimator,
                 out.rewards);
  gae(out.rewards, in.values, in.mask, in.gamma, in.lam, in.whiten, out.advantages, out.returns);
}

}  // namespace rlhf::cpu
