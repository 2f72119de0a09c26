// Formula of decoder_layers: through each layer x = self_attention(x), then each row
// x = feed_forward(x). Here is what is its own, one position's attention to those that are held.
#pragma once

#include "math/feed_forward.h"
#include "math/self_attention.h"

namespace rlhf::math {

struct DecoderLayerWeights {
  SelfAttentionWeights first;
  FeedForwardWeights second;
};

// What the last of `count` positions of one head gives, `size` numbers; `shares` [count] is
// scratch.
RLHF_HD void attend_one(const double* query, const double* keys, const double* values, int64_t size,
                        int64_t count, double scale, double* shares, double* out) {
  attention_shares(query, keys, size, count, scale, shares);
  for (int64_t d = 0; d < size; ++d) out[d] = attention_result(shares, values, size, count, d);
}

}  // namespace rlhf::math
