// whiten: contract and dispatch.
#include "cpu/whiten.h"

#include "cuda/whiten.h"
#include "ops/token_loss.h"

namespace rlhf::ops {

void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out,
            const OptionalView& workspace) {
  check_tokens("whiten", {"x", x}, {}, mask);
  [[maybe_unused]] double* sums = check_workspace("whiten", workspace, x, x.numel());
  RLHF_ON_CUDA(x, cuda::whiten(x, mask, shift_mean, out, sums));
  cpu::whiten(x, mask, shift_mean, out);
}

}  // namespace rlhf::ops
