// What the tests of the masked token ops on emulated CUDA share.
#pragma once

#include <cstdlib>
#include <optional>

#include "ops.h"
#include "tests/cuda/columns.h"

namespace rlhf::test {

// Sizes around a warp, a block of threads and a block of tokens, and several blocks.
constexpr int64_t kTokenCounts[] = {0, 1, 31, 255, 256, 257, 1023, 1024, 1025, 5000};

enum class Kept { kNone, kAll, kSome, kLast };

// `count` flags; kSome leaves holes, kLast keeps the last alone.
inline std::vector<char> make_mask(int64_t count, Kept kept, uint32_t seed) {
  Numbers numbers(seed);
  std::vector<char> mask(static_cast<size_t>(count));
  for (char& keep : mask) {
    keep = kept == Kept::kAll || (kept == Kept::kSome && numbers.uniform() < 0.6);
  }
  if (kept == Kept::kLast && count > 0) mask.back() = 1;
  return mask;
}

inline TensorView mask_view(std::vector<char>& mask, std::initializer_list<int64_t> shape) {
  return view_of(reinterpret_cast<bool*>(mask.data()), shape);
}

// Normal numbers, with NaN and infinities where the mask hides them.
inline std::vector<float> hidden_normal(const std::vector<char>& mask, double scale,
                                        uint32_t seed) {
  std::vector<float> values(mask.size());
  fill_normal(values.data(), values.size(), scale, seed);
  for (size_t i = 0; i < mask.size(); ++i) {
    if (!mask[i]) values[i] = i % 3 ? NAN : (i % 2 ? INFINITY : -INFINITY);
  }
  return values;
}

inline std::vector<double> widened(const std::vector<float>& values) {
  return std::vector<double>(values.begin(), values.end());
}

// Exactly what the op asks for, NaN before it writes.
inline std::vector<double> make_workspace(const char* op, const TensorView& first, int64_t items) {
  return std::vector<double>(static_cast<size_t>(ops::workspace_size(op, first, items)), NAN);
}

// The same bits; NaN equals NaN.
template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// body() while threads run in this order.
template <typename Body>
auto in_order(const char* order, const Body& body) {
  const char* name = "RLHF_EMULATION_ORDER";
  const char* now = std::getenv(name);
  const std::string former = now ? now : "forward";
  setenv(name, order, 1);
  auto result = body();
  setenv(name, former.c_str(), 1);
  return result;
}

}  // namespace rlhf::test
