// ppo_loss on the CPU. Reads 12 bytes and the mask per token, writes 4 (fp32); fp64 sums.
// The mask is looked at before anything else, so masked tokens may hold NaN. The gradient is
// written before the division by the denominator: backward multiplies it by upstream * scale.
// Formula: csrc/math/ppo_loss.h.
#include "cpu/ppo_loss.h"

#include "cpu/lanes.h"
#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/ppo_loss.h"
#include "math/ppo_sum.h"

namespace rlhf::cpu {
namespace {

using math::nan_max;
using math::PpoSum;

// Tokens between the arithmetic, which becomes vector code, and the fp64 sums over its results.
constexpr int64_t kChunk = 512;

template <typename T>
PpoSum add_chunk(const T* now, const T* old, const T* advantage, const uint8_t* keep, T low, T high,
                 int64_t length, T* grad) {
  T logratio[kChunk], ratio[kChunk], k3[kChunk], loss[kChunk], clipped[kChunk];
  for (int64_t i = 0; i < length; ++i) {
    // Masked tokens are replaced, not skipped: they then add 0 to every sum but the ratio's.
    const auto token =
        math::ppo_token<T>(kept_or_zero(now[i], keep[i]), kept_or_zero(old[i], keep[i]),
                           kept_or_zero(advantage[i], keep[i]), low, high);
    grad[i] = token.dlogprob;
    logratio[i] = token.logratio;
    ratio[i] = token.ratio;
    k3[i] = token.k3;
    loss[i] = token.loss;
    clipped[i] = token.clipped;
  }
  PpoSum sum;
  sum.loss = sum_lanes(length, [&](int64_t i) { return loss[i]; });
  sum.logratio_squared =
      sum_lanes(length, [&](int64_t i) { return static_cast<double>(logratio[i]) * logratio[i]; });
  sum.k3 = sum_lanes(length, [&](int64_t i) { return k3[i]; });
  sum.clipped = sum_lanes(length, [&](int64_t i) { return clipped[i]; });
  sum.ratio = masked_moments(ratio, keep, length);
  for (int64_t i = 0; i < length; ++i) {
    sum.ratio_max = nan_max(sum.ratio_max, kept_or_zero(ratio[i], keep[i]));
    sum.ratio_error = nan_max(sum.ratio_error, kept_or_zero(std::fabs(ratio[i] - T(1)), keep[i]));
  }
  return sum;
}

template <typename T>
PpoSum reduce_tokens(const TensorView& logprobs, const TensorView& old_logprobs,
                     const TensorView& advantages, const TensorView& mask, double cliprange,
                     const TensorView& token_grad) {
  const T* now = logprobs.as<T>();
  const T* old = old_logprobs.as<T>();
  const T* advantage = advantages.as<T>();
  const uint8_t* keep = mask.as<uint8_t>();
  T* grad = token_grad.as<T>();
  const T low = static_cast<T>(1.0 - cliprange);
  const T high = static_cast<T>(1.0 + cliprange);
  const int64_t count = logprobs.numel();
  return reduce_blocks<PpoSum>(
      count, kTokenBlock, count, [=](int64_t begin, int64_t end, PpoSum& sum) {
        for (int64_t i = begin; i < end; i += kChunk) {
          const int64_t length = end - i < kChunk ? end - i : kChunk;
          sum.merge(
              add_chunk(now + i, old + i, advantage + i, keep + i, low, high, length, grad + i));
        }
      });
}

}  // namespace

void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              std::optional<double> denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale) {
  dispatch_compute("ppo_loss", "logprobs", logprobs.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const PpoSum sum =
        reduce_tokens<T>(logprobs, old_logprobs, advantages, mask, cliprange, token_grad);
    const double factor = mean_scale("ppo_loss", denominator, sum.ratio.count);
    write_values<T>(loss, {sum.loss * factor});
    write_values<T>(stats, {sum.loss * factor, 0.5 * sum.logratio_squared * factor, sum.k3 * factor,
                            sum.clipped * factor, sum.ratio.sum() * factor, sum.ratio.m2 * factor,
                            sum.ratio_max, sum.ratio_error});
    write_values<double>(scale, {factor});
  });
}

}  // namespace rlhf::cpu
