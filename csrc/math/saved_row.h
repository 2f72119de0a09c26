// What the forward pass keeps of a row of logits for the backward pass.
//
// One row of a float64 tensor [N, kSavedColumns] that Python allocates; the same on every device.
//   log p_j = (x_j - max) / T - log_sum
//   d loss / d x_j = (p_j (a + b log p_j + c (log p_j - log q_j)) + d [j = target]) / T
#pragma once

#include <cstdint>

namespace rlhf::math {

struct SavedRow {
  double max = 0;
  double log_sum = 0;
  double entropy = 0;
  double inverse_temperature = 0;  // 0 where the row does not count
  double ref_max = 0;
  double ref_log_sum = 0;
  double a = 0, b = 0, c = 0, d = 0;
};
constexpr int64_t kSavedColumns = sizeof(SavedRow) / sizeof(double);

}  // namespace rlhf::math
