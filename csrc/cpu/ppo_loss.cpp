// ppo_loss on the CPU. Reads 12 bytes and the mask per token, writes 4 (fp32); fp64 sums.
// The mask is looked at before anything else, so masked tokens may hold NaN. The gradient is
// written before the division by the denominator: backward multiplies it by upstream * scale.
// Formula: csrc/math/ppo_loss.h.
#include "cpu/ppo_loss.h"

#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/ppo_loss.h"
#include "math/token_kl.h"

namespace rlhf::cpu {
namespace {

// A NaN enters and stays.
inline double nan_max(double a, double b) { return b <= a || a != a ? a : b; }

struct PpoSum {
  double loss = 0;
  double logratio_squared = 0;
  double k3 = 0;
  double clipped = 0;
  double ratio_max = 0;
  double ratio_error = 0;  // max |ratio - 1|
  math::ShiftedSums ratios;
  math::Moments ratio;

  void merge(const PpoSum& other) {
    loss += other.loss;
    logratio_squared += other.logratio_squared;
    k3 += other.k3;
    clipped += other.clipped;
    ratio_max = nan_max(ratio_max, other.ratio_max);
    ratio_error = nan_max(ratio_error, other.ratio_error);
    ratio = math::merge(ratio, other.ratios.moments());
  }
};

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
        for (int64_t i = begin; i < end; ++i) {
          if (!keep[i]) {
            grad[i] = T(0);
            continue;
          }
          const auto token = math::ppo_token<T>(now[i], old[i], advantage[i], low, high);
          grad[i] = token.dlogprob;
          sum.loss += token.loss;
          sum.logratio_squared += static_cast<double>(token.logratio) * token.logratio;
          sum.k3 += math::token_kl<T>(math::KlEstimator::kK3, old[i], now[i]);
          sum.clipped += token.clipped;
          sum.ratio_max = nan_max(sum.ratio_max, token.ratio);
          sum.ratio_error = nan_max(sum.ratio_error, std::fabs(token.ratio - T(1)));
          sum.ratios.add(token.ratio);
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
