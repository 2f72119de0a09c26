// value_loss: contract and dispatch.
#include "cpu/value_loss.h"

#include "cuda/value_loss.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, const OptionalView& denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale, const OptionalView& workspace) {
  const char* op = "value_loss";
  check_tokens(op, {"values", values}, {{"old_values", old_values}, {"returns", returns}}, mask);
  check_not_negative(op, "cliprange_value", cliprange_value);
  check_denominator(op, denominator, {"values", values});
  [[maybe_unused]] double* sums = check_workspace(op, workspace, values, values.numel());
  RLHF_ON_CUDA(values, cuda::value_loss(values, old_values, returns, mask, cliprange_value,
                                        denominator_pointer(denominator), loss, stats, token_grad,
                                        scale, sums));
  cpu::value_loss(values, old_values, returns, mask, cliprange_value,
                  read_denominator(op, denominator), loss, stats, token_grad, scale);
}

}  // namespace rlhf::ops
