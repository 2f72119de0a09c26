// Masked reductions over tokens in blocks of fixed size.
//
// Each block is summed by one thread in order and the blocks are merged in order, so a result does
// not depend on the number of threads. Sums are fp64 whatever the tokens' type.
#pragma once

#include <optional>
#include <vector>

#include "check.h"
#include "cpu/parallel.h"
#include "math/moments.h"
#include "tensor.h"

namespace rlhf::cpu {

constexpr int64_t kTokenBlock = 4096;

// Sum has merge(const Sum&); body(begin, end, Sum&) adds the tokens [begin, end).
template <typename Sum, typename Body>
Sum reduce_blocks(int64_t count, int64_t block, int64_t total_elements, const Body& body) {
  std::vector<Sum> partials(static_cast<size_t>((count + block - 1) / block));
  parallel_ranges(count, block, total_elements, [&](int64_t begin, int64_t end) {
    Sum sum;  // on this thread's stack: neighbours in `partials` share cache lines
    body(begin, end, sum);
    partials[static_cast<size_t>(begin / block)] = sum;
  });
  Sum total;
  for (const Sum& partial : partials) total.merge(partial);
  return total;
}

// 1 / denominator; 0 when there is nothing to divide.
inline double mean_scale(const char* op, std::optional<double> denominator, double count) {
  if (denominator && *denominator == 0 && count > 0) {
    fail(op, "denominator", "must be positive when anything is counted, got 0");
  }
  const double divisor = denominator.value_or(count);
  return divisor > 0 ? 1.0 / divisor : 0.0;
}

// Write one value per element of a dense output of the element type T.
template <typename T>
void write_values(const TensorView& out, std::initializer_list<double> values) {
  T* pointer = out.as<T>();
  for (double value : values) *pointer++ = static_cast<T>(value);
}

}  // namespace rlhf::cpu
