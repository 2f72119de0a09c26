// What the tests of the emulated CUDA column share: inputs, and views that claim to be on a device.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/simd.h"
#include "tests/check.h"

namespace rlhf::test {

inline TensorView on_cuda(TensorView view) {
  view.device = Device::kCuda;
  return view;
}

// Values whose last element is the last of its allocation and whose first stands `phase` elements
// past a 16-byte boundary, so that every alignment occurs and the sanitizer sees both ends.
template <typename S>
class Placed {
 public:
  Placed(size_t count, size_t phase)
      : phase_(phase), memory_(new S[phase + count]), count_(count) {}
  ~Placed() { delete[] memory_; }
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;
  S* data() { return memory_ + phase_; }
  size_t size() const { return count_; }
  S& operator[](size_t index) { return memory_[phase_ + index]; }

 private:
  size_t phase_;
  S* memory_;
  size_t count_;
};

// A generator that gives the same numbers with every standard library.
class Numbers {
 public:
  explicit Numbers(uint32_t seed) : bits_(seed) {}
  double uniform() { return (bits_() >> 5) / 134217728.0; }
  // Sum of uniforms: close enough to normal, and the same everywhere.
  double normal() {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum - 6.0;
  }

 private:
  std::mt19937 bits_;
};

template <typename S>
void fill_normal(S* data, size_t count, double scale, uint32_t seed) {
  Numbers numbers(seed);
  for (size_t i = 0; i < count; ++i) {
    cpu::store(data + i, static_cast<float>(scale * numbers.normal()));
  }
}

// The same values in fp64: what the truth is computed from.
template <typename S>
std::vector<double> widened(S* data, size_t count) {
  std::vector<double> wide(count);
  for (size_t i = 0; i < count; ++i) wide[i] = cpu::load(data + i);
  return wide;
}

}  // namespace rlhf::test
