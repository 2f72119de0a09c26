// whiten: contract and dispatch.
#include "cpu/whiten.h"

#include "ops/token_loss.h"

namespace rlhf::ops {

void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out) {
  check_tokens("whiten", {"x", x}, {}, mask);
  cpu::whiten(x, mask, shift_mean, out);
}

}  // namespace rlhf::ops
