// The layout of the float64 workspace in which ops that sum over many blocks leave partial sums.
//
// Block b of kBlockItems tokens or rows, or of kBlockPrompts prompts, writes one plain struct of at
// most kPartialDoubles entries at b * kPartialDoubles; a second launch merges them in order. One
// more block holds what the launches pass on (denominators). ppo_loss_from_logits keeps kRowDoubles
// per row after that.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace rlhf::cuda {

constexpr int64_t kBlockItems = 1024;
constexpr int64_t kBlockPrompts = 8;  // ranking_loss: a warp each
constexpr int64_t kPartialDoubles = 24;
constexpr int64_t kRowDoubles = 16;

RLHF_HD int64_t partial_blocks(int64_t items) { return (items + kBlockItems - 1) / kBlockItems; }

inline int64_t prompt_blocks(int64_t prompts) {
  return (prompts + kBlockPrompts - 1) / kBlockPrompts;
}

// Entries before the rows of ppo_loss_from_logits.
RLHF_HD int64_t partials_size(int64_t items) {
  return kPartialDoubles * (partial_blocks(items) + 1);
}

}  // namespace rlhf::cuda
