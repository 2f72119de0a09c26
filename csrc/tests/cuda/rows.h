// Rows of logits for the tests of the row ops' CUDA column: dtypes, alignments, hard cases.
#pragma once

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "math/saved_row.h"
#include "ops.h"
#include "tests/cuda/columns.h"

namespace rlhf::test {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What rounding a value to the storage type may change it by, relative to it.
template <typename S>
constexpr double kRounding = 3e-7;
template <>
constexpr double kRounding<BFloat16> = 1.0 / 256;
template <>
constexpr double kRounding<Half> = 1.0 / 2048;

// [rows, vocab] whose rows stand `stride` elements apart; the last one ends with the allocation,
// and the gaps hold NaN.
template <typename S>
struct Logits {
  Logits(int64_t rows, int64_t vocab, int64_t stride, size_t phase)
      : rows(rows),
        vocab(vocab),
        stride(stride),
        values(static_cast<size_t>((rows - 1) * stride + vocab), phase) {
    for (size_t i = 0; i < values.size(); ++i) cpu::store(&values[i], std::nanf(""));
  }

  S* row(int64_t index) { return values.data() + index * stride; }
  void set(int64_t r, int64_t j, double value) {
    cpu::store(row(r) + j, static_cast<float>(value));
  }
  float get(int64_t r, int64_t j) { return cpu::load(row(r) + j); }

  // Like a language model's: a spread of 3 nats and a peak.
  void fill(uint32_t seed) {
    for (int64_t r = 0; r < rows; ++r) {
      fill_normal(row(r), static_cast<size_t>(vocab), 3.0, seed + static_cast<uint32_t>(r));
      set(r, (r * 7 + seed) % vocab, 9.0);
    }
  }

  TensorView view() {
    TensorView view = view_of(row(0), {rows, vocab});
    view.strides[0] = stride;
    return view;
  }

  // Dense fp64 copy.
  std::vector<double> wide() {
    std::vector<double> all;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < vocab; ++j) all.push_back(get(r, j));
    }
    return all;
  }

  int64_t rows, vocab, stride;
  Placed<S> values;
};

// The kinds of rows that have gone wrong elsewhere, one after the other.
template <typename S>
void make_hard(Logits<S>* logits) {
  const int64_t v = logits->vocab;
  for (int64_t r = 0; r < logits->rows; ++r) {
    for (int64_t j = 0; j < v; ++j) {
      if (r % 6 == 0 && j < v / 2) logits->set(r, j, -kInfinity);
      if (r % 6 == 1) logits->set(r, j, 2.5);
      if (r % 6 == 2) logits->set(r, j, j == v / 3 ? 60.0 : -1e4);
      if (r % 6 == 3) logits->set(r, j, -1e4);
      if (r % 6 == 4 && j != v - 1) logits->set(r, j, -kInfinity);
    }
  }
}

inline std::vector<int64_t> targets_for(int64_t rows, int64_t vocab) {
  std::vector<int64_t> targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(r % 3 == 2 ? vocab - 1 : (r * 31) % vocab);
  return targets;
}

using Saved = std::vector<double>;
inline TensorView saved_view(Saved* saved, int64_t rows) {
  saved->resize(static_cast<size_t>(rows * math::kSavedColumns));
  return view_of(saved->data(), {rows, math::kSavedColumns});
}

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// Both NaN, both the same infinity, or close.
inline bool agree(double actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (std::isinf(expected)) return actual == expected;
  return std::fabs(actual - expected) <= tolerance;
}

#define CHECK_AGREE(actual, expected, tolerance)                                                  \
  do {                                                                                            \
    const double a_ = (actual), e_ = (expected);                                                  \
    if (!test::agree(a_, e_, (tolerance))) {                                                      \
      std::fprintf(stderr, "%s:%d: %s is %.9g, expected %.9g\n", __FILE__, __LINE__, #actual, a_, \
                   e_);                                                                           \
      std::exit(1);                                                                               \
    }                                                                                             \
  } while (false)

// A row's gradient against fp64, relative to the row's largest entry. Where the terms of p_j cancel
// (V = 1, equal rows, p -> 1) fp32 leaves an error relative to p_j: `cancelled` times the highest
// one.
template <typename S>
void check_gradient(Logits<S>* actual, const std::vector<double>& expected, double tolerance,
                    const Saved& saved, double cancelled) {
  for (int64_t r = 0; r < actual->rows; ++r) {
    const double* row = expected.data() + r * actual->vocab;
    const double log_sum = saved[static_cast<size_t>(r * math::kSavedColumns + 1)];
    const bool counts = saved[static_cast<size_t>(r * math::kSavedColumns + 3)] != 0.0;
    const double highest = counts && !std::isnan(log_sum) ? std::exp(-log_sum) : 0.0;
    double largest = 0;
    for (int64_t j = 0; j < actual->vocab; ++j) largest = std::fmax(largest, std::fabs(row[j]));
    for (int64_t j = 0; j < actual->vocab; ++j) {
      // 6e-8: what 16 bits cannot hold below the normal numbers.
      const double allowed =
          tolerance * largest + cancelled * highest + kRounding<S> * std::fabs(row[j]) + 6e-8;
      if (!agree(actual->get(r, j), row[j], allowed)) {
        std::fprintf(stderr, "gradient [%ld, %ld] of V=%ld is %.9g, expected %.9g, row max %.9g\n",
                     static_cast<long>(r), static_cast<long>(j), static_cast<long>(actual->vocab),
                     actual->get(r, j), row[j], largest);
        std::exit(1);
      }
    }
  }
}

template <typename S>
bool same_row(Logits<S>* a, int64_t row, Logits<S>* b, int64_t other) {
  return std::memcmp(a->row(row), b->row(other), static_cast<size_t>(a->vocab) * sizeof(S)) == 0;
}

}  // namespace rlhf::test
