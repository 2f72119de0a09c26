// value_loss on CUDA, two launches: tokens to one sum per block, then the sums to loss and
// statistics. Reads 12 bytes and the mask per token, writes 4; fp32 arithmetic, fp64 sums. The
// gradient is written before the division, as in csrc/cpu/ppo_loss.cpp. Formula:
// csrc/math/value_loss.h.
#include "cuda/token_blocks.cuh"
#include "cuda/value_loss.h"
#include "math/value_loss.h"

namespace rlhf::cuda {
namespace {

using math::ValueSum;

struct Tokens {
  const float* values;
  const float* old_values;
  const float* returns;
  const uint8_t* mask;
  int64_t count;
};

__global__ void value_loss_tokens_kernel(Tokens tokens, float cliprange, float* grad,
                                         double* workspace) {
  ValueSum mine;
  math::ShiftedSums values, targets;
  for_tokens(blockIdx.x, tokens.count, [&](int64_t i) {
    // The mask first: what it hides may be NaN.
    if (!tokens.mask[i]) {
      grad[i] = 0.0f;
      return;
    }
    const float value = tokens.values[i], target = tokens.returns[i];
    const auto token = math::value_token<float>(value, tokens.old_values[i], target, cliprange);
    grad[i] = token.dvalue;
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
                                         const double* denominator, float* loss, float* stats,
                                         double* scale) {
  const ValueSum sum =
      merge_partials<ValueSum>(workspace, blocks, block_shared<ThreadSums<ValueSum>>().sums);
  if (threadIdx.x != 0) return;
  const double factor = mean_factor(denominator, sum.value.count);
  *loss = static_cast<float>(sum.loss * factor);
  stats[0] = static_cast<float>(sum.loss * factor);
  stats[1] = static_cast<float>(sum.clipped * factor);
  stats[2] = static_cast<float>(sum.squared_error * factor);
  stats[3] = static_cast<float>(sum.value.sum() * factor);
  stats[4] = static_cast<float>(sum.value.m2 * factor);
  stats[5] = static_cast<float>(sum.target.sum() * factor);
  stats[6] = static_cast<float>(sum.target.m2 * factor);
  *scale = factor;
}

}  // namespace

void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, const double* denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale, double* workspace) {
  const char* op = "value_loss";
  const Target target(values);
  const int64_t count = values.numel();
  const int64_t blocks = partial_blocks(count);
  const size_t shared = sizeof(ThreadSums<ValueSum>);
  const Tokens tokens = {values.as<const float>(), old_values.as<const float>(),
                         returns.as<const float>(), mask.as<const uint8_t>(), count};
  launch(op, target, value_loss_tokens_kernel, blocks, kReduceThreads, shared, tokens,
         static_cast<float>(cliprange_value), token_grad.as<float>(), workspace);
  launch(op, target, value_loss_finish_kernel, 1, kReduceThreads, shared, workspace, blocks,
         denominator, loss.as<float>(), stats.as<float>(), scale.as<double>());
}

}  // namespace rlhf::cuda
