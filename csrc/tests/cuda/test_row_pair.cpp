// exact_kl of pairs of rows that are nearly alike, and of those that are not, on emulated CUDA
// against the CPU column in fp64: one pass over both rows, or three where that does not reach.
#include <functional>

#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

template <typename S>
using Entries = std::function<void(test::Logits<S>*, test::Logits<S>*, int64_t row, int64_t entry)>;

const std::vector<double> kTemperatures = {1.0, 0.7, 2.5};

// Three rows of different temperatures and alignments, made entry by entry.
template <typename S>
struct Pair {
  Pair(int64_t vocab, const Entries<S>& make)
      : x(3, vocab, vocab + 1, 0), y(3, vocab, vocab + 2, 1), kl(3), temperatures(kTemperatures) {
    x.fill(static_cast<uint32_t>(vocab));
    y.fill(static_cast<uint32_t>(vocab) + 40);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t j = 0; j < vocab; ++j) make(&x, &y, r, j);
    }
    ops::exact_kl(on_cuda(x.view()), on_cuda(y.view()), std::nullopt,
                  on_cuda(view_of(temperatures)), 1.0, on_cuda(view_of(kl)),
                  on_cuda(test::saved_view(&saved, 3)));
    std::vector<double> p = x.wide(), q = y.wide();
    truth.resize(3);
    ops::exact_kl(view_of(p.data(), {3, vocab}), view_of(q.data(), {3, vocab}), std::nullopt,
                  view_of(temperatures), 1.0, view_of(truth), test::saved_view(&right, 3));
  }

  // KL, and the log of either row's sum.
  void check(double relative, double absolute) {
    for (size_t r = 0; r < 3; ++r) {
      CHECK_AGREE(kl[r], truth[r], relative * std::fabs(truth[r]) + absolute);
      CHECK(!(kl[r] < 0.0f));
      if (!std::isfinite(truth[r])) continue;
      for (const size_t column : {size_t{0}, size_t{4}}) {
        const double expected = logsumexp(right, r, column);
        CHECK_AGREE(logsumexp(saved, r, column), expected, 1e-6 + 1e-7 * std::fabs(expected));
      }
    }
  }

  // `column`: of the row's or the reference's maximum, behind which its log_sum stands.
  static double logsumexp(const test::Saved& all, size_t row, size_t column) {
    const double* of = all.data() + row * math::kSavedColumns;
    return of[column] * of[3] + of[column + 1];
  }

  test::Logits<S> x, y;
  std::vector<float> kl;
  std::vector<double> temperatures, truth;
  test::Saved saved, right;
};

double wave(int64_t j) { return std::sin(static_cast<double>(j) * 0.37); }

// The reference is the row and a constant: the KL is 0.
void check_shifts() {
  for (const double by : {0.25, -3.0, 1000.0, -5000.0}) {
    Pair<float> pair(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      const double value = std::round(64.0 * x->get(r, j)) / 64;  // so that the sum is exact
      x->set(r, j, value);
      y->set(r, j, value + by);
    });
    pair.check(0, 1e-9);
  }
}

// Small and large differences, relative to the KL. They are about the limit of the series at 0.5.
template <typename S>
void check_differences(int64_t vocab) {
  const double rounding = test::kRounding<S> > 1e-6 ? 1e-2 : 0.0;  // of y, not of what is tested
  for (const double size : {1e-3, 1e-2, 0.1, 0.35, 0.5, 0.7, 1.0, 3.0, 30.0, 300.0}) {
    Pair<S> pair(vocab, [&](auto* x, auto* y, int64_t r, int64_t j) {
      y->set(r, j, x->get(r, j) + size * (wave(j) + rounding));
    });
    pair.check(4e-5, 1e-13);  // fp32 sums of d, of both signs, of which the square is taken off
  }
}

// The largest entry, and with it c, moves along the row; each warp ends with another c.
void check_moving_offsets() {
  for (const double height : {0.2, 1.0, 6.0}) {
    Pair<float> rising(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      x->set(r, j, 1e-3 * static_cast<double>(j) + 0.5 * wave(j));
      y->set(r, j, x->get(r, j) + height * std::sin(static_cast<double>(j) * 0.002));
    });
    rising.check(4e-6, 1e-9);
    Pair<float> steps(17000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      x->set(r, j, 0.2 * x->get(r, j));
      y->set(r, j, x->get(r, j) + height * static_cast<double>(j / 2125 % 3) + 0.01 * wave(j));
    });
    steps.check(4e-6, 1e-9);
  }
}

// A peak with nearly all of p in both rows, and in one of them.
void check_peaks() {
  for (const double peak : {12.0, 25.0, 60.0}) {
    Pair<float> both(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      y->set(r, j, x->get(r, j) + 0.2 * wave(j));
      if (j != 4321) return;
      x->set(r, j, peak + 9);
      y->set(r, j, peak + 8.5);
    });
    both.check(4e-6, 1e-13);
    Pair<float> one(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      y->set(r, j, x->get(r, j) + 0.2 * wave(j));
      if (j == 4321) x->set(r, j, peak + 9);
    });
    one.check(4e-6, 1e-9);
    Pair<float> other(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      y->set(r, j, x->get(r, j) + 0.2 * wave(j));
      if (j == 4321) y->set(r, j, peak + 9);
    });
    other.check(4e-6, 1e-9);
  }
}

// -inf in shares of one row, of the other, of both, and in single entries.
template <typename S>
void check_infinities() {
  const auto none = [](auto* of, int64_t r, int64_t j) { of->set(r, j, -test::kInfinity); };
  const auto near = [](auto* x, auto* y, int64_t r, int64_t j) {
    y->set(r, j, x->get(r, j) + 0.25 * static_cast<double>(j % 3));
  };
  for (const int64_t every : {int64_t{1}, int64_t{7}}) {
    Pair<S> in_x(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      near(x, y, r, j);
      if (j < 3000 && j % every == 0) none(x, r, j);
    });
    in_x.check(4e-6, 2e-8);
    Pair<S> in_y(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      near(x, y, r, j);
      if (j < 3000 && j % every == 0) none(y, r, j);
    });
    for (const float kl : in_y.kl) CHECK(kl == test::kInfinity);
    Pair<S> in_both(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      near(x, y, r, j);
      if (j >= 3000 || j % every != 0) return;
      none(x, r, j);
      none(y, r, j);
    });
    in_both.check(4e-6, 2e-8);
  }
  Pair<S> disjoint(5000,
                   [&](auto* x, auto* y, int64_t r, int64_t j) { none(j % 2 == 0 ? x : y, r, j); });
  for (const float kl : disjoint.kl) CHECK(kl == test::kInfinity);
  Pair<S> apart(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
    x->set(r, j, j % 2 == 0 ? 1.0 : -300.0);
    y->set(r, j, j % 2 == 0 ? -300.0 : 1.0);
  });
  apart.check(4e-6, 0);
}

void check_not_a_number() {
  for (const bool in_x : {false, true}) {
    for (const int64_t place : {int64_t{0}, int64_t{2600}, int64_t{4999}}) {
      Pair<float> pair(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
        y->set(r, j, x->get(r, j));
        if (j == place && r > 0) (in_x ? x : y)->set(r, j, NAN);
      });
      CHECK(pair.kl[0] == 0.0f && std::isnan(pair.kl[1]) && std::isnan(pair.kl[2]));
    }
  }
}

// Logits of any size; equal rows give 0 whatever it is.
void check_extremes() {
  for (const double size : {1e7, 1e9, 1e30}) {
    Pair<float> equal(5000, [&](auto* x, auto* y, int64_t r, int64_t j) {
      x->set(r, j, size * wave(j));
      y->set(r, j, x->get(r, j));
    });
    for (const float kl : equal.kl) CHECK(kl == 0.0f);
  }
}

}  // namespace

int main() {
  check_shifts();
  check_differences<float>(5000);
  check_differences<BFloat16>(9001);
  check_differences<Half>(50);
  check_moving_offsets();
  check_peaks();
  check_infinities<float>();
  check_infinities<BFloat16>();
  check_not_a_number();
  check_extremes();
  return 0;
}
