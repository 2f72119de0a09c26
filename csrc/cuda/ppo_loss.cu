// ppo_loss on CUDA. Up to 2^17 tokens one launch, where there are clusters (token_cluster.cuh);
// else two: tokens to one sum per block, then the sums to loss and statistics. Reads 12 bytes and
// the mask per token, writes 4; fp32 arithmetic, fp64 sums. The gradient is written before the
// division, as in csrc/cpu/ppo_loss.cpp. Formula: csrc/math/ppo_loss.h.
#include "cuda/ppo_loss.h"
#include "cuda/token_cluster.cuh"
#include "math/ppo_sum.h"

namespace rlhf::cuda {
namespace {

using math::PpoSum;

struct Results {
  float* loss;
  float* stats;
  double* scale;
};

struct ClipRange {
  float low;
  float high;
};

__device__ void write_results(const PpoSum& sum, double factor, const Results& out) {
  *out.loss = static_cast<float>(sum.loss * factor);
  out.stats[0] = static_cast<float>(sum.loss * factor);
  out.stats[1] = static_cast<float>(0.5 * sum.logratio_squared * factor);
  out.stats[2] = static_cast<float>(sum.k3 * factor);
  out.stats[3] = static_cast<float>(sum.clipped * factor);
  out.stats[4] = static_cast<float>(sum.ratio.sum() * factor);
  out.stats[5] = static_cast<float>(sum.ratio.m2 * factor);
  out.stats[6] = static_cast<float>(unless_nan(sum.ratio_max, factor));
  out.stats[7] = static_cast<float>(unless_nan(sum.ratio_error, factor));
  *out.scale = factor;
}

// Places in ClusterTotals; ratios are added as what they are above 1, where most lie.
enum { kLoss, kLogratioSquared, kK3, kClipped, kCount, kRatio, kRatioSquared };
enum { kRatioMax, kRatioError };

__global__ void __launch_bounds__(kClusterThreads, 1)
    ppo_loss_cluster_kernel(MaskedTokens tokens, bool aligned, ClipRange clip,
                            const double* denominator, Results out) {
  cluster_arrive();
  // Asked for here, since whoever needs it has waited long enough.
  const double divisor = denominator != nullptr ? *denominator : 0.0;
  ClusterTotals mine;
  int count = 0, clipped = 0;
  for_cluster_tokens(tokens, aligned, [&](float logprob, float old, float advantage, bool keep) {
    const auto token = math::ppo_token<float>(logprob, old, advantage, clip.low, clip.high);
    const double logratio = token.logratio, above = token.ratio - 1.0;
    mine.sums[kLoss] += token.loss;
    mine.sums[kLogratioSquared] += logratio * logratio;
    mine.sums[kK3] += token.k3;
    mine.sums[kRatio] += above;
    mine.sums[kRatioSquared] += above * above;
    mine.raise(kRatioMax, token.ratio, keep);
    mine.raise(kRatioError, token.ratio - 1.0f, keep);
    clipped += token.clipped != 0.0f;
    count += keep;
    return token.dlogprob;
  });
  mine.sums[kCount] = count;
  mine.sums[kClipped] = clipped;
  if (!merge_cluster(mine, block_shared<ClusterShared>())) return;
  PpoSum sum;
  sum.loss = mine.sums[kLoss];
  sum.logratio_squared = mine.sums[kLogratioSquared];
  sum.k3 = mine.sums[kK3];
  sum.clipped = mine.sums[kClipped];
  sum.ratio_max = mine.maximum(kRatioMax);
  sum.ratio_error = mine.maximum(kRatioError);
  sum.ratio = math::ShiftedSums{1.0, mine.sums[kCount], mine.sums[kRatio], mine.sums[kRatioSquared]}
                  .moments();
  write_results(sum, mean_factor(denominator != nullptr, divisor, mine.sums[kCount]), out);
}

__global__ void ppo_loss_tokens_kernel(MaskedTokens tokens, ClipRange clip, double* workspace) {
  PpoSum mine;
  for_tokens(blockIdx.x, tokens.count, [&](int64_t i) {
    // The mask first: what it hides may be NaN.
    if (!tokens.mask[i]) {
      tokens.grad[i] = 0.0f;
      return;
    }
    const auto token = math::ppo_token<float>(tokens.inputs[0][i], tokens.inputs[1][i],
                                              tokens.inputs[2][i], clip.low, clip.high);
    tokens.grad[i] = token.dlogprob;
    mine.add(token, token.k3);
  });
  PpoSum merged;  // merge() turns the ratios that were added into moments
  merged.merge(mine);
  leave_partial(merged, workspace);
}

__global__ void ppo_loss_finish_kernel(double* workspace, int64_t blocks, const double* denominator,
                                       Results out) {
  const PpoSum sum =
      merge_partials<PpoSum>(workspace, blocks, block_shared<ThreadSums<PpoSum>>().sums);
  if (threadIdx.x != 0) return;
  write_results(sum, mean_factor(denominator, sum.ratio.count), out);
}

}  // namespace

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const double* denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale, double* workspace) {
  const char* op = "ppo_loss";
  const Target target(logprobs);
  const MaskedTokens tokens = {
      {logprobs.as<const float>(), old_logprobs.as<const float>(), advantages.as<const float>()},
      mask.as<const uint8_t>(),
      token_grad.as<float>(),
      logprobs.numel()};
  const ClipRange clip = {static_cast<float>(1.0 - cliprange), static_cast<float>(1.0 + cliprange)};
  const Results out = {loss.as<float>(), stats.as<float>(), scale.as<double>()};
  static PerDevice groups;
  if (launch_cluster(op, target, ppo_loss_cluster_kernel, groups, tokens, clip, denominator, out)) {
    return;
  }
  const int64_t blocks = partial_blocks(tokens.count);
  const size_t shared = sizeof(ThreadSums<PpoSum>);
  launch(op, target, ppo_loss_tokens_kernel, blocks, kReduceThreads, shared, tokens, clip,
         workspace);
  launch(op, target, ppo_loss_finish_kernel, 1, kReduceThreads, shared, workspace, blocks,
         denominator, out);
}

}  // namespace rlhf::cuda
