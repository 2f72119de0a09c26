// gelu_tanh: contract. On a GPU torch's own kernel is bound by memory already.
#include "cpu/gelu_tanh.h"

#include "check.h"
#include "ops.h"

namespace rlhf::ops {
namespace {

void check_input(const char* op, const TensorView& x) {
  check_floating(op, "x", x);
  check_contiguous(op, "x", x);
  check_cpu(op, "x", x);
}

}  // namespace

void gelu_tanh(const TensorView& x, const TensorView& out) {
  check_input("gelu_tanh", x);
  cpu::gelu_tanh(x, out);
}

void gelu_tanh_backward(const TensorView& grad_out, const TensorView& x, const TensorView& grad_x) {
  check_input("gelu_tanh_backward", x);
  check_like("gelu_tanh_backward", "grad_out", grad_out, "x", x);
  cpu::gelu_tanh_backward(grad_out, x, grad_x);
}

}  // namespace rlhf::ops
