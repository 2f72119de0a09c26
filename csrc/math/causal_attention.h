// Formula of causal_attention for one query: shares p_j = softmax_{j <= i}(scale q . k_j), result
// sum_j p_j v_j. What gradients need follows from the shares alone, see cpu/row_causal_attention.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/host_device.h"

namespace rlhf::math {

RLHF_HD double dot(const double* a, const double* b, int64_t size) {
  double sum = 0;
  for (int64_t d = 0; d < size; ++d) sum += a[d] * b[d];
  return sum;
}

// Shares of the keys up to the query's own, `count` of them, rows of `size` numbers.
RLHF_HD void attention_shares(const double* query, const double* keys, int64_t size, int64_t count,
                              double scale, double* shares) {
  double highest = -HUGE_VAL, sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    shares[j] = scale * dot(query, keys + j * size, size);
    highest = shares[j] > highest ? shares[j] : highest;
  }
  for (int64_t j = 0; j < count; ++j) sum += shares[j] = std::exp(shares[j] - highest);
  for (int64_t j = 0; j < count; ++j) shares[j] /= sum;
}

// One number of the result: the shares times a column of values, rows of `size` numbers.
RLHF_HD double attention_result(const double* shares, const double* values, int64_t size,
                                int64_t count, int64_t column) {
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += shares[j] * values[j * size + column];
  return sum;
}

}  // namespace rlhf::math
