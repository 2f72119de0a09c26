// value_loss on the CPU. Reads 12 bytes and the mask per token, writes 4 (fp32); fp64 sums.
// The gradient is written before the division, as in ppo_loss.cpp. Formula: csrc/math/value_loss.h.
#include "cpu/value_loss.h"

#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/value_loss.h"

namespace rlhf::cpu {
namespace {

struct ValueSum {
  double loss = 0;
  double squared_error = 0;
  double clipped = 0;
  math::ShiftedSums values;
  math::ShiftedSums targets;
  math::Moments value;
  math::Moments target;

  void merge(const ValueSum& other) {
    loss += other.loss;
    squared_error += other.squared_error;
    clipped += other.clipped;
    value = math::merge(value, other.values.moments());
    target = math::merge(target, other.targets.moments());
  }
};

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
        for (int64_t i = begin; i < end; ++i) {
          if (!keep[i]) {
            grad[i] = T(0);
            continue;
          }
          const auto token = math::value_token<T>(value[i], old[i], target[i], cliprange);
          grad[i] = token.dvalue;
          sum.loss += token.loss;
          sum.squared_error += token.squared_error;
          sum.clipped += token.clipped;
          sum.values.add(value[i]);
          sum.targets.add(target[i]);
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
