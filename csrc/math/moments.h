// Count, mean and sum of squared deviations, mergeable in a fixed order.
//
//   merge: n = n_a + n_b    mean = mean_a + d n_b / n    m2 = m2_a + m2_b + d^2 n_a n_b / n
//   with d = mean_b - mean_a; variance (biased) = m2 / n.
//
// Source: Chan, Golub and LeVeque 1979, "Updating formulae ... for computing sample variances".
#pragma once

#include "math/host_device.h"

namespace rlhf::math {

struct Moments {
  double count = 0;
  double mean = 0;
  double m2 = 0;

  RLHF_HD double sum() const { return count * mean; }
  RLHF_HD double variance() const { return count > 0 ? m2 / count : 0.0; }
};

RLHF_HD Moments merge(const Moments& a, const Moments& b) {
  if (b.count == 0) return a;
  if (a.count == 0) return b;
  const double count = a.count + b.count;
  const double gap = b.mean - a.mean;
  return {count, a.mean + gap * (b.count / count),
          a.m2 + b.m2 + gap * gap * (a.count * b.count / count)};
}

// Sums of x - shift and of its square; a shift close to the data loses nothing to cancellation.
struct ShiftedSums {
  double shift = 0;
  double count = 0;
  double first = 0;
  double second = 0;

  RLHF_HD void add(double x) {
    if (count == 0) shift = x;
    const double gap = x - shift;
    count += 1;
    first += gap;
    second += gap * gap;
  }
  RLHF_HD Moments moments() const {
    if (count == 0) return {};
    const double rest = second - first * first / count;
    return {count, shift + first / count, rest < 0 ? 0.0 : rest};
  }
};

}  // namespace rlhf::math
