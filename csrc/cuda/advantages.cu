// advantages on CUDA. One launch where row_scan.cuh takes the rows: reads 12 bytes and the mask per
// token, writes 12; rewards in fp32, the recurrence in fp64. Else the launches of shaped_rewards
// and gae. Formula: csrc/math/advantages.h.
#include "cuda/advantages.h"
#include "cuda/gae.h"
#include "cuda/row_scan.cuh"
#include "cuda/shaped_rewards.h"
#include "cuda/whiten.h"

namespace rlhf::cuda {

void advantages(const AdvantageInputs& inputs, math::KlEstimator estimator,
                const AdvantageOutputs& outputs, double* workspace) {
  const char* op = "advantages";
  ScanInputs in = {};
  in.scores = inputs.scores.as<const float>();
  in.logprobs = inputs.logprobs.as<const float>();
  in.ref_logprobs = inputs.ref_logprobs.as<const float>();
  in.values = inputs.values.as<const float>();
  in.mask = inputs.mask.as<const uint8_t>();
  in.count = inputs.logprobs.shape[0];
  in.length = inputs.logprobs.shape[1];
  in.kl_coef = inputs.kl_coef;
  in.estimator = estimator;
  in.rates = math::gae_rates(inputs.gamma, inputs.lam);
  const ScanOutputs to = {outputs.advantages.as<float>(), outputs.returns.as<float>(),
                          outputs.rewards.as<float>()};
  const ScanDone done =
      launch_scan<true>(op, Target(inputs.logprobs), in, to, inputs.whiten, workspace);
  if (done == ScanDone::kNothing) {
    shaped_rewards(inputs.scores, inputs.logprobs, inputs.ref_logprobs, inputs.mask, in.kl_coef,
                   estimator, outputs.rewards);
    gae(outputs.rewards, inputs.values, inputs.mask, inputs.gamma, inputs.lam, inputs.whiten,
        outputs.advantages, outputs.returns, workspace);
  } else if (done == ScanDone::kAdvantages) {
    whiten(outputs.advantages, inputs.mask, true, outputs.advantages, workspace);
  }
}

}  // namespace rlhf::cuda
