// Numbers for the tests of ops on many of them.
#pragma once

#include <cstdint>
#include <vector>

namespace rlhf::test {

// Numbers between shift - scale and shift + scale that no pattern of places repeats.
template <typename T>
std::vector<T> make(int64_t count, int seed, double scale = 1, double shift = 0) {
  std::vector<T> made(count);
  uint32_t state = 12345u + static_cast<uint32_t>(seed);
  for (T& x : made) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<T>(shift + scale * (static_cast<double>(state >> 8) / (1 << 23) - 1));
  }
  return made;
}

}  // namespace rlhf::test
