// feed_forward: contract. On a GPU torch's own operators do it.
#include "cpu/feed_forward.h"

#include <vector>

#include "ops.h"
#include "sublayer_checks.h"

namespace rlhf::ops {
namespace {

void check_rows(const char* op, const TensorView& rows, int64_t count) {
  check_dense(op, "rows", rows, DType::kInt64);
  if (rows.ndim != 1) fail(op, "rows", "must be [N], got " + shape_text(rows));
  std::vector<bool> seen(static_cast<size_t>(count));
  for (int64_t i = 0; i < rows.shape[0]; ++i) {
    const int64_t row = rows.as<int64_t>()[i];
    if (row < 0 || row >= count || seen[static_cast<size_t>(row)]) {
      fail(op, "rows",
           "must name rows of 'hidden', each once; entry " + std::to_string(i) + " is " +
               std::to_string(row) + " of " + std::to_string(count) + " rows");
    }
    seen[static_cast<size_t>(row)] = true;
  }
}

void check_inputs(const char* op, const FeedForwardInputs& inputs) {
  check_hidden(op, inputs.hidden, 2);
  const DType dtype = inputs.hidden.dtype;
  const int64_t width = inputs.hidden.shape[1];
  if (inputs.rows) check_rows(op, *inputs.rows, inputs.hidden.shape[0]);
  if (inputs.up_weight.ndim != 2) {
    fail(op, "up_weight", "must be [D, F], got " + shape_text(inputs.up_weight));
  }
  check_whole(op, "up_weight", inputs.up_weight, 1);
  const int64_t inner = inputs.up_weight.shape[1];
  check_vector(op, "norm_weight", inputs.norm_weight, width, dtype);
  check_vector(op, "norm_bias", inputs.norm_bias, width, dtype);
  check_weight(op, "up_weight", inputs.up_weight, width, inner, dtype);
  check_vector(op, "up_bias", inputs.up_bias, inner, dtype);
  check_weight(op, "down_weight", inputs.down_weight, inner, width, dtype);
  check_vector(op, "down_bias", inputs.down_bias, width, dtype);
  check_eps(op, inputs.eps);
  check_lowered(op, inputs.hidden, inputs.lowered);
}

}  // namespace

void feed_forward(const FeedForwardInputs& inputs, const TensorView& out, const TensorView& inner) {
  check_inputs("feed_forward", inputs);
  cpu::feed_forward(inputs, out, inner);
}

void feed_forward_backward(const TensorView& grad_out, const FeedForwardInputs& inputs,
                           const TensorView& inner, const FeedForwardGradients& grads) {
  check_inputs("feed_forward_backward", inputs);
  check_like("feed_forward_backward", "grad_out", grad_out, "hidden", inputs.hidden);
  check_dense("feed_forward_backward", "inner", inner, inputs.hidden.dtype);
  const int64_t columns = inputs.up_weight.shape[1];
  check_shape("feed_forward_backward", "inner", inner,
              {(columns + cpu::kPanelColumns - 1) / cpu::kPanelColumns,
               (inputs.rows ? *inputs.rows : inputs.hidden).shape[0], cpu::kPanelColumns});
  cpu::feed_forward_backward(grad_out, inputs, inner, grads);
}

}  // namespace rlhf::ops
