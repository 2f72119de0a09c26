// Philox4x32-10: four random words from a 64-bit key and a 128-bit counter, without a state.
// J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace rlhf::math {

struct Words4 {
  uint32_t w[4];
};

RLHF_HD Words4 philox4x32_10(Words4 counter, uint32_t key0, uint32_t key1) {
  Words4 c = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c.w[0];
    const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * c.w[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.w[1] ^ key0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ c.w[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

}  // namespace rlhf::math
