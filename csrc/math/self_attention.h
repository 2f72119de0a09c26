// Formula of self_attention for one sequence: x + attention(norm(x) W + w) O + o. Its gradient
// follows from those of its parts, see cpu/self_attention.cpp.
#pragma once

#include "math/causal_attention.h"
#include "math/layer_norm.h"

namespace rlhf::math {

struct SelfAttentionWeights {
  const double *norm_weight, *norm_bias;
  const double *in, *in_bias;    // [D, 3 D], [3 D]
  const double *out, *out_bias;  // [D, D], [D]
  int64_t width, heads;          // D
  double scale, eps;
};

// Queries, keys and values of one head [3, L, D / heads], from rows [L, 3 D].
RLHF_HD void head_states(const double* states, const SelfAttentionWeights& w, int64_t length,
                         int64_t head, double* out) {
  const int64_t size = w.width / w.heads;
  for (int64_t part = 0; part < 3; ++part) {
    for (int64_t i = 0; i < length; ++i) {
      const double* row = states + i * 3 * w.width + part * w.width + head * size;
      for (int64_t d = 0; d < size; ++d) out[(part * length + i) * size + d] = row[d];
    }
  }
}

// What position i of one head gives, `size` numbers; `states` as head_states() has them.
RLHF_HD void head_result(const double* states, const SelfAttentionWeights& w, int64_t length,
                         int64_t i, double* shares, double* out) {
  const int64_t size = w.width / w.heads;
  const double* keys = states + length * size;
  attention_shares(states + i * size, keys, size, i + 1, w.scale, shares);
  for (int64_t d = 0; d < size; ++d) {
    out[d] = attention_result(shares, keys + length * size, size, i + 1, d);
  }
}

}  // namespace rlhf::math
