// Formula of feed_forward for one row: x + gelu(norm(x) U + u) D + d. Its gradient follows from
// those of its parts, see cpu/feed_forward.cpp.
#pragma once

#include "math/gelu_tanh.h"
#include "math/layer_norm.h"

namespace rlhf::math {

struct FeedForwardWeights {
  const double *norm_weight, *norm_bias;
  const double *up, *up_bias;      // [D, F], [F]
  const double *down, *down_bias;  // [F, D], [D]
  int64_t width, inner;            // D, F
  double eps;
};

// `normalized` [D] and `active` [F] are scratch.
RLHF_HD void feed_forward(const double* x, const FeedForwardWeights& w, double* normalized,
                          double* active, double* out) {
  layer_norm(x, w.norm_weight, w.norm_bias, w.width, w.eps, normalized);
  affine(normalized, w.up, w.up_bias, w.width, w.inner, active);
  for (int64_t j = 0; j < w.inner; ++j) active[j] = gelu_tanh(active[j]);
  affine(active, w.down, w.down_bias, w.inner, w.width, out);
  for (int64_t j = 0; j < w.width; ++j) out[j] += x[j];
}

}  // namespace rlhf::math
