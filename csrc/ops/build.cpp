// What this build and this machine have, and what the CUDA column asks of its caller.
#include "cpu/rows.h"
#include "cuda/workspace.h"
#include "ops.h"
#include "ops/device.h"

namespace rlhf::ops {

const char* current_isa() { return cpu::current_isa(); }

bool has_cuda() { return kHasCuda; }

int64_t workspace_size(const std::string& op, const TensorView& first, int64_t items) {
  if (first.device == Device::kCpu) return 0;
  if (op == "ranking_loss") {
    return cuda::kPartialDoubles * (cuda::prompt_blocks(items) + 1);
  }
  const int64_t rows = op.rfind("ppo_loss_from_logits", 0) == 0 ? items * cuda::kRowDoubles : 0;
  return cuda::partials_size(items) + rows;
}

}  // namespace rlhf::ops
