// self_attention: contract. On a GPU torch's own operators do it.
#include "cpu/self_attention.h"

#include "ops.h"
#include "sublayer_checks.h"

namespace rlhf::ops {
namespace {

void check_inputs(const char* op, const SelfAttentionInputs& inputs) {
  check_hidden(op, inputs.hidden, 3);
  const DType dtype = inputs.hidden.dtype;
  const int64_t width = inputs.hidden.shape[2];
  check_vector(op, "norm_weight", inputs.norm_weight, width, dtype);
  check_vector(op, "norm_bias", inputs.norm_bias, width, dtype);
  check_weight(op, "in_weight", inputs.in_weight, width, 3 * width, dtype);
  check_vector(op, "in_bias", inputs.in_bias, 3 * width, dtype);
  check_weight(op, "out_weight", inputs.out_weight, width, width, dtype);
  check_vector(op, "out_bias", inputs.out_bias, width, dtype);
  check_heads(op, inputs.hidden, inputs.heads);
  check_finite(op, "scale", inputs.scale, -1e30, 1e30, "finite");
  check_eps(op, inputs.eps);
  check_lowered(op, inputs.hidden, inputs.lowered);
}

}  // namespace

void self_attention(const SelfAttentionInputs& inputs, const TensorView& out,
                    const TensorView& states, const TensorView& attended) {
  check_inputs("self_attention", inputs);
  cpu::self_attention(inputs, out, states, attended);
}

void self_attention_backward(const TensorView& grad_out, const SelfAttentionInputs& inputs,
                             const TensorView& states, const TensorView& attended,
                             const SelfAttentionGradients& grads) {
  check_inputs("self_attention_backward", inputs);
  check_like("self_attention_backward", "grad_out", grad_out, "hidden", inputs.hidden);
  check_like("self_attention_backward", "attended", attended, "hidden", inputs.hidden);
  check_dense("self_attention_backward", "states", states, inputs.hidden.dtype);
  check_shape("self_attention_backward", "states", states,
              {inputs.hidden.shape[0], inputs.hidden.shape[1], 3 * inputs.hidden.shape[2]});
  cpu::self_attention_backward(grad_out, inputs, states, attended, grads);
}

}  // namespace rlhf::ops
