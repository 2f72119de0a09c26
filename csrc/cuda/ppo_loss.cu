// ppo_loss on CUDA, two launches: tokens to one sum per block, then the sums to loss and
// statistics. Reads 12 bytes and the mask per token, writes 4; fp32 arithmetic, fp64 sums. The
// gradient is written before the division, as in csrc/cpu/ppo_loss.cpp. Formula:
// csrc/math/ppo_loss.h.
#include "cuda/ppo_loss.h"
#include "cuda/token_blocks.cuh"
#include "math/ppo_sum.h"

namespace rlhf::cuda {
namespace {

using math::PpoSum;

struct Tokens {
  const float* logprobs;
  const float* old_logprobs;
  const float* advantages;
  const uint8_t* mask;
  int64_t count;
};

__global__ void ppo_loss_tokens_kernel(Tokens tokens, float low, float high, float* grad,
                                       double* workspace) {
  PpoSum mine;
  for_tokens(blockIdx.x, tokens.count, [&](int64_t i) {
    // The mask first: what it hides may be NaN.
    if (!tokens.mask[i]) {
      grad[i] = 0.0f;
      return;
    }
    const auto token = math::ppo_token<float>(tokens.logprobs[i], tokens.old_logprobs[i],
                                              tokens.advantages[i], low, high);
    grad[i] = token.dlogprob;
    mine.add(token, token.k3);
  });
  PpoSum merged;  // merge() turns the ratios that were added into moments
  merged.merge(mine);
  leave_partial(merged, workspace);
}

__global__ void ppo_loss_finish_kernel(double* workspace, int64_t blocks, const double* denominator,
                                       float* loss, float* stats, double* scale) {
  const PpoSum sum =
      merge_partials<PpoSum>(workspace, blocks, block_shared<ThreadSums<PpoSum>>().sums);
  if (threadIdx.x != 0) return;
  const double factor = mean_factor(denominator, sum.ratio.count);
  *loss = static_cast<float>(sum.loss * factor);
  stats[0] = static_cast<float>(sum.loss * factor);
  stats[1] = static_cast<float>(0.5 * sum.logratio_squared * factor);
  stats[2] = static_cast<float>(sum.k3 * factor);
  stats[3] = static_cast<float>(sum.clipped * factor);
  stats[4] = static_cast<float>(sum.ratio.sum() * factor);
  stats[5] = static_cast<float>(sum.ratio.m2 * factor);
  stats[6] = static_cast<float>(unless_nan(sum.ratio_max, factor));
  stats[7] = static_cast<float>(unless_nan(sum.ratio_error, factor));
  *scale = factor;
}

}  // namespace

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const double* denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale, double* workspace) {
  const char* op = "ppo_loss";
  const Target target(logprobs);
  const int64_t count = logprobs.numel();
  const int64_t blocks = partial_blocks(count);
  const size_t shared = sizeof(ThreadSums<PpoSum>);
  const Tokens tokens = {logprobs.as<const float>(), old_logprobs.as<const float>(),
                         advantages.as<const float>(), mask.as<const uint8_t>(), count};
  launch(op, target, ppo_loss_tokens_kernel, blocks, kReduceThreads, shared, tokens,
         static_cast<float>(1.0 - cliprange), static_cast<float>(1.0 + cliprange),
         token_grad.as<float>(), workspace);
  launch(op, target, ppo_loss_finish_kernel, 1, kReduceThreads, shared, workspace, blocks,
         denominator, loss.as<float>(), stats.as<float>(), scale.as<double>());
}

}  // namespace rlhf::cuda
