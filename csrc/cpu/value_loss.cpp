// value_loss on the CPU. Reads 12 bytes and the mask per token, writes 4 (fp32); fp64 sums.
// The gradient is written before the division, as in ppo_loss.cpp. Formula: csrc/math/value_loss.h.
#include "cpu/value_loss.h"

#include "cpu/lanes.h"
#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/value_loss.h"

namespace rlhf::cpu {
namespace {

using math::ValueSum;

// Tokens between the arithmetic, which becomes vector code, and the fp64 sums over its results.
constexpr int64_t kChunk = 512;

template <typename T>
ValueSum add_chunk(const T* value, const T* old, const T* target, const uint8_t* keep, T cliprange,
                   int64_t length, T* grad) {
  T loss[kChunk], error[kChunk], clipped[kChunk];
  for (int64_t i = 0; i < length; ++i) {
    // Masked tokens are replaced, not skipped: they then add 0 to every sum.
    const auto token =
        math::value_token<T>(kept_or_zero(value[i], keep[i]), kept_or_zero(old[i], keep[i]),
                             kept_or_zero(target[i], keep[i]), cliprange);
    grad[i] = token.dvalue;
    loss[i] = token.loss;
    error[i] = token.squared_error;
    clipped[i] = token.clipped;
  }
  ValueSum sum;
  sum.loss = sum_lanes(length, [&](int64_t i) { return loss[i]; });
  sum.squared_error = sum_lanes(length, [&](int64_t i) { return error[i]; });
  sum.clipped = sum_lanes(length, [&](int64_t i) { return clipped[i]; });
  sum.value = masked_moments(value, keep, length);
  sum.target = masked_moments(target, keep, length);
  return sum;
}

template <typename T>
ValueSum reduce_tokens(const TensorView& values, const TensorView& old_values,
                       const TensorView& returns, const TensorView& mask, T cliprange,
                       const TensorView& token_grad) {
  const T* value = values.as<T>();
  const T* old = old_values.as<T>();
  const T* target = returns.as<T>();
  const uint8_t* keep = mask.as<uint8_t>();
  T* grad = token_grad.as<T>();
  const int64_t count = values.numel();
  return reduce_blocks<ValueSum>(
      count, kTokenBlock, count, [=](int64_t begin, int64_t end, ValueSum& sum) {
        for (int64_t i = begin; i < end; i += kChunk) {
          const int64_t length = end - i < kChunk ? end - i : kChunk;
          sum.merge(
              add_chunk(value + i, old + i, target + i, keep + i, cliprange, length, grad + i));
        }
      });
}

}  // namespace

void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, std::optional<double> denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale) {
  dispatch_compute("value_loss", "values", values.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const ValueSum sum = reduce_tokens<T>(values, old_values, returns, mask,
                                          static_cast<T>(cliprange_value), token_grad);
    const double factor = mean_scale("value_loss", denominator, sum.value.count);
    write_values<T>(loss, {sum.loss * factor});
    write_values<T>(stats, {sum.loss * factor, sum.clipped * factor, sum.squared_error * factor,
                            sum.value.sum() * factor, sum.value.m2 * factor,
                            sum.target.sum() * factor, sum.target.m2 * factor});
    write_values<double>(scale, {factor});
  });
}

}  // namespace rlhf::cpu
