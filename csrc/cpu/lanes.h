// Sums in fp64 over kLanes interleaved lanes: one order of additions, whatever the compiler
// vectorises. Entry i goes to lane i % kLanes and the lanes are added from the first to the last.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/moments.h"

namespace rlhf::cpu {

constexpr int64_t kLanes = 8;

// sum of f(i) over [0, count)
template <typename Function>
double sum_lanes(int64_t count, const Function& f) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += f(i + lane);
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += f(i);
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

inline int64_t count_kept(const uint8_t* keep, int64_t count) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) kept += keep[i] != 0;
  return kept;
}

template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
};

// x where keep is 1, +0 where it is 0, NaN or not. By bits: a conditional expression would be a
// branch, and a loop with branches does not become vector code.
template <typename T>
T kept_or_zero(T x, uint8_t keep) {
  typename BitsOf<T>::type bits;
  std::memcpy(&bits, &x, sizeof(x));
  bits &= 0 - static_cast<typename BitsOf<T>::type>(keep);
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Moments of the unmasked entries, summed around the first of them.
template <typename T>
math::Moments masked_moments(const T* x, const uint8_t* keep, int64_t count) {
  math::ShiftedSums sums;
  int64_t first = 0;
  while (first < count && !keep[first]) ++first;
  if (first == count) return {};
  const double shift = x[first];
  sums.shift = shift;
  sums.count = static_cast<double>(count_kept(keep, count));
  double lanes[kLanes] = {}, squares[kLanes] = {};
  const auto add = [&](int64_t i, int64_t lane) {
    const double gap = kept_or_zero(static_cast<double>(x[i]) - shift, keep[i]);
    lanes[lane] += gap;
    squares[lane] += gap * gap;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) add(i, lane);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sums.first += lanes[lane];
    sums.second += squares[lane];
  }
  return sums.moments();
}

}  // namespace rlhf::cpu
