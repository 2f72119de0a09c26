// Formula of a layer norm over one row: (x - mean) / sqrt(variance + eps), times weight, plus bias.
//
// Source: Ba, Kiros and Hinton, arXiv:1607.06450.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/host_device.h"

namespace rlhf::math {

RLHF_HD void layer_norm(const double* x, const double* weight, const double* bias, int64_t count,
                        double eps, double* out) {
  double mean = 0, variance = 0;
  for (int64_t j = 0; j < count; ++j) mean += x[j] / count;
  for (int64_t j = 0; j < count; ++j) variance += (x[j] - mean) * (x[j] - mean) / count;
  for (int64_t j = 0; j < count; ++j) {
    out[j] = (x[j] - mean) / std::sqrt(variance + eps) * weight[j] + bias[j];
  }
}

// out = x weight + bias, weight being [in, out] by rows.
RLHF_HD void affine(const double* x, const double* weight, const double* bias, int64_t in,
                    int64_t out_count, double* out) {
  for (int64_t j = 0; j < out_count; ++j) {
    out[j] = bias[j];
    for (int64_t k = 0; k < in; ++k) out[j] += x[k] * weight[k * out_count + j];
  }
}

}  // namespace rlhf::math
