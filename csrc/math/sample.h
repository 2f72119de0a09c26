// Sampling one entry of a row, for the CPU and a GPU.
//
//   u      = top 53 bits of (w0 2^32 + w1), times 2^-53; w = Philox(seed; row id, position)
//   token  = first j with sum_{i <= j} e_i > u sum_i e_i,     e_i = exp((x_i - max) / T)
//
// Truncation keeps the entries >= a threshold. It is the largest logit t at which
//
//   sum_{x_i >= t} weight_i >= need
//
// with weight 1 and need k for top-k; for top-p weight floor(2^40 e_i) and need ceil(p times the
// weight of what top-k kept). The sums are of integers, so no order of additions changes them, and
// entries equal to the threshold are kept or dropped together.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/host_device.h"
#include "math/philox.h"

namespace rlhf::math {

constexpr double kMassScale = 1099511627776.0;  // 2^40

// In [0, 1); a function of the seed, the row's identity and the position alone.
RLHF_HD double uniform_at(int64_t seed, int64_t row_id, int64_t position) {
  const uint64_t key = static_cast<uint64_t>(seed), row = static_cast<uint64_t>(row_id),
                 place = static_cast<uint64_t>(position);
  const Words4 counter = {{static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                           static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32)}};
  const Words4 out =
      philox4x32_10(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  const uint64_t bits = static_cast<uint64_t>(out.w[0]) << 32 | out.w[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Integers in the order of the numbers; -0 and 0 are one number.
RLHF_HD uint32_t order_key(float x) {
  const float value = x + 0.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

RLHF_HD uint64_t order_key(double x) {
  const double value = x + 0.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000u;
}

RLHF_HD float from_order_key(uint32_t key) {
  const uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

RLHF_HD double from_order_key(uint64_t key) {
  const uint64_t bits = key >> 63 ? key & 0x7fffffffffffffffu : ~key;
  double value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// ceil(top_p mass), at least 1 and at most `mass`.
RLHF_HD uint64_t nucleus_need(double top_p, uint64_t mass) {
  const double need = ceil(top_p * static_cast<double>(mass));
  if (need >= static_cast<double>(mass)) return mass;
  return need < 1.0 ? 1 : static_cast<uint64_t>(need);
}

}  // namespace rlhf::math
