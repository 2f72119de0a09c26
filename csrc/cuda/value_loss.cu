// value_loss on CUDA. Up to 2^17 tokens one launch, where there are clusters (token_cluster.cuh);
// else two: tokens to one sum per block, then the sums to loss and statistics. Reads 12 bytes and
// the mask per token, writes 4; fp32 arithmetic, fp64 sums. The gradient is written before the
// division, as in csrc/cpu/ppo_loss.cpp. Formula: csrc/math/value_loss.h.
#include "cuda/token_cluster.cuh"
#include "cuda/value_loss.h"
#include "math/value_loss.h"

namespace rlhf::cuda {
namespace {

using math::ValueSum;

struct Results {
  float* loss;
  float* stats;
  double* scale;
};

__device__ void write_results(const ValueSum& sum, double factor, const Results& out) {
  *out.loss = static_cast<float>(sum.loss * factor);
  out.stats[0] = static_cast<float>(sum.loss * factor);
  out.stats[1] = static_cast<float>(sum.clipped * factor);
  out.stats[2] = static_cast<float>(sum.squared_error * factor);
  out.stats[3] = static_cast<float>(sum.value.sum() * factor);
  out.stats[4] = static_cast<float>(sum.value.m2 * factor);
  out.stats[5] = static_cast<float>(sum.target.sum() * factor);
  out.stats[6] = static_cast<float>(sum.target.m2 * factor);
  *out.scale = factor;
}

// Places in ClusterTotals. Clipped tokens and the count are one sum, exact up to 2^53.
enum { kLoss, kSquaredError, kCounts, kValue, kValueSquared, kTarget, kTargetSquared };
constexpr double kClippedUnit = 1 << 20;
static_assert(kMostClusterTokens < kClippedUnit, "a count does not reach the next digit");

__device__ math::Moments moments_of(double count, double first, double second) {
  return math::ShiftedSums{0.0, count, first, second}.moments();
}

__global__ void __launch_bounds__(kClusterThreads, 1)
    value_loss_cluster_kernel(MaskedTokens tokens, bool aligned, float cliprange,
                              const double* denominator, Results out) {
  cluster_arrive();
  // Asked for here, since whoever needs it has waited long enough.
  const double divisor = denominator != nullptr ? *denominator : 0.0;
  ClusterTotals mine;
  int count = 0, clipped = 0;
  for_cluster_tokens(tokens, aligned, [&](float value, float old_value, float target, bool keep) {
    const auto token = math::value_token<float>(value, old_value, target, cliprange);
    const double v = value, t = target;
    mine.sums[kLoss] += token.loss;
    mine.sums[kSquaredError] += token.squared_error;
    mine.sums[kValue] += v;
    mine.sums[kValueSquared] += v * v;
    mine.sums[kTarget] += t;
    mine.sums[kTargetSquared] += t * t;
    clipped += token.clipped != 0.0f;
    count += keep;
    return token.dvalue;
  });
  mine.sums[kCounts] = count + clipped * kClippedUnit;
  if (!merge_cluster(mine, block_shared<ClusterShared>())) return;
  ValueSum sum;
  sum.loss = mine.sums[kLoss];
  sum.squared_error = mine.sums[kSquaredError];
  sum.clipped = floor(mine.sums[kCounts] / kClippedUnit);
  const double counted = mine.sums[kCounts] - sum.clipped * kClippedUnit;
  sum.value = moments_of(counted, mine.sums[kValue], mine.sums[kValueSquared]);
  sum.target = moments_of(counted, mine.sums[kTarget], mine.sums[kTargetSquared]);
  write_results(sum, mean_factor(denominator != nullptr, divisor, counted), out);
}

__global__ void value_loss_tokens_kernel(MaskedTokens tokens, float cliprange, double* workspace) {
  ValueSum mine;
  math::ShiftedSums values, targets;
  for_tokens(blockIdx.x, tokens.count, [&](int64_t i) {
    // The mask first: what it hides may be NaN.
    if (!tokens.mask[i]) {
      tokens.grad[i] = 0.0f;
      return;
    }
    const float value = tokens.inputs[0][i], target = tokens.inputs[2][i];
    const auto token = math::value_token<float>(value, tokens.inputs[1][i], target, cliprange);
    tokens.grad[i] = token.dvalue;
    mine.loss += token.loss;
    mine.squared_error += token.squared_error;
    mine.clipped += token.clipped;
    values.add(value);
    targets.add(target);
  });
  mine.value = values.moments();
  mine.target = targets.moments();
  leave_partial(mine, workspace);
}

__global__ void value_loss_finish_kernel(double* workspace, int64_t blocks,
                                         const double* denominator, Results out) {
  const ValueSum sum =
      merge_partials<ValueSum>(workspace, blocks, block_shared<ThreadSums<ValueSum>>().sums);
  if (threadIdx.x != 0) return;
  write_results(sum, mean_factor(denominator, sum.value.count), out);
}

}  // namespace

void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, const double* denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale, double* workspace) {
  const char* op = "value_loss";
  const Target target(values);
  const MaskedTokens tokens = {
      {values.as<const float>(), old_values.as<const float>(), returns.as<const float>()},
      mask.as<const uint8_t>(),
      token_grad.as<float>(),
      values.numel()};
  const auto clip = static_cast<float>(cliprange_value);
  const Results out = {loss.as<float>(), stats.as<float>(), scale.as<double>()};
  static PerDevice groups;
  if (launch_cluster(op, target, value_loss_cluster_kernel, groups, tokens, clip, denominator,
                     out)) {
    return;
  }
  const int64_t blocks = partial_blocks(tokens.count);
  const size_t shared = sizeof(ThreadSums<ValueSum>);
  launch(op, target, value_loss_tokens_kernel, blocks, kReduceThreads, shared, tokens, clip,
         workspace);
  launch(op, target, value_loss_finish_kernel, 1, kReduceThreads, shared, workspace, blocks,
         denominator, out);
}

}  // namespace rlhf::cuda
