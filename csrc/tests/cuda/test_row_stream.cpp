// gather_logprobs of rows at the limits of the short way through a row (cuda/row_stream.cuh), on
// emulated CUDA against the CPU column in fp64.
#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

template <typename C>
struct Results {
  explicit Results(size_t rows) : logprobs(rows), entropy(rows), logsumexp(rows) {}
  std::vector<C> logprobs, entropy, logsumexp;
  test::Saved saved;
};

template <typename S>
Results<float> on_device(test::Logits<S>* x, std::vector<int64_t> targets, double temperature) {
  Results<float> out(targets.size());
  ops::gather_logprobs(on_cuda(x->view()), on_cuda(view_of(targets)), std::nullopt, std::nullopt,
                       temperature, on_cuda(view_of(out.logprobs)), on_cuda(view_of(out.entropy)),
                       on_cuda(view_of(out.logsumexp)),
                       on_cuda(test::saved_view(&out.saved, x->rows)));
  return out;
}

template <typename S>
Results<double> in_fp64(test::Logits<S>* x, std::vector<int64_t> targets, double temperature) {
  Results<double> out(targets.size());
  std::vector<double> wide = x->wide();
  ops::gather_logprobs(view_of(wide.data(), {x->rows, x->vocab}), view_of(targets), std::nullopt,
                       std::nullopt, temperature, view_of(out.logprobs), view_of(out.entropy),
                       view_of(out.logsumexp), test::saved_view(&out.saved, x->rows));
  return out;
}

// `entropy`: what may be lost of it.
template <typename S>
void check(test::Logits<S>* x, const std::vector<int64_t>& targets, double temperature,
           double entropy = 2e-6) {
  const Results<float> out = on_device(x, targets, temperature);
  const Results<double> truth = in_fp64(x, targets, temperature);
  for (size_t r = 0; r < targets.size(); ++r) {
    CHECK_AGREE(out.logprobs[r], truth.logprobs[r], 4e-7 * (1.0 + std::fabs(truth.logprobs[r])));
    CHECK_AGREE(out.entropy[r], truth.entropy[r], entropy);
    CHECK_AGREE(out.logsumexp[r], truth.logsumexp[r], 4e-7 * (1.0 + std::fabs(truth.logsumexp[r])));
  }
}

// Logits around +-2^26 T / log2(e), below which exponents are relative to a power of two. There an
// fp32 product of one and log2(e) / T is a multiple of 4 or 8: only whole steps are told apart.
void check_limit() {
  for (const double sign : {1.0, -1.0}) {
    for (const double part : {0.01, 0.98, 0.999, 1.001, 1.02, 4.0}) {
      const double temperature = 0.25;
      const double size = sign * part * 67108864.0 * temperature * 0.6931471805599453;
      test::Logits<float> x(2, 5000, 5001, 1);
      for (int64_t r = 0; r < 2; ++r) {
        for (int64_t j = 0; j < 5000; ++j) {
          x.set(r, j, std::round(size / 64) * 64 - 64.0 * static_cast<double>(j * 7 % 50));
        }
      }
      check(&x, {0, 4900}, temperature);
    }
  }
}

// Far from 0 and near each other, so that the exponents' rounding shows: fp32 has 2^-9 there.
void check_far() {
  for (const double offset : {-20000.0, -300.0, 300.0, 20000.0}) {
    test::Logits<float> x(2, 5000, 5001, 1);
    x.fill(6);
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t j = 0; j < 5000; ++j) x.set(r, j, x.get(r, j) + offset);
    }
    check(&x, {1, 4999}, 1.0, 1e-5 + 1e-7 * std::fabs(offset));
  }
}

// 1 - p of the likeliest entry, relative to what it is.
template <typename S>
void check_certain() {
  for (const double peak : {14.0, 20.0, 30.0, 45.0}) {
    for (const int64_t place : {int64_t{0}, int64_t{4400}, int64_t{9000}}) {
      test::Logits<S> x(1, 9001, 9001, 1);
      for (int64_t j = 0; j < 9001; ++j) x.set(0, j, 0.25 * static_cast<double>(j % 9));
      x.set(0, place, peak);
      const float ours = on_device(&x, {place}, 1.0).logprobs[0];
      const double truth = in_fp64(&x, {place}, 1.0).logprobs[0];
      CHECK_NEAR(std::expm1(ours) / std::expm1(truth), 1.0, 1e-6);
    }
  }
}

// Whole shares of -inf, before, between and behind others; one entry beside them.
template <typename S>
void check_silent_shares() {
  for (const int64_t begin : {0, 1250, 3750}) {
    test::Logits<S> x(2, 5000, 5001, 1);
    x.fill(8);
    for (int64_t j = begin; j < begin + 1250; ++j) x.set(0, j, -test::kInfinity);
    for (int64_t j = 0; j < 5000; ++j) {
      if (j != begin + 7) x.set(1, j, -test::kInfinity);
    }
    check(&x, {(begin + 1300) % 5000, begin + 7}, 0.7);
  }
}

// Many entries equal to the maximum, in one lane's vectors and over all; a maximum that rises at
// nearly every step, and by so much that what came before is nothing.
template <typename S>
void check_peaks() {
  test::Logits<S> x(5, 9001, 9001, 1);
  x.fill(4);
  for (int64_t j = 0; j < 9001; ++j) {
    if (j % 3 == 0) x.set(0, j, 9.0);
    if (j / 64 % 5 == 0) x.set(1, j, 9.0);
    x.set(2, j, -4.5);
    x.set(3, j, 0.5 * static_cast<double>(j / 256));
    x.set(4, j, 300.0 * static_cast<double>(j / 2048));
  }
  check(&x, {3, 65, 9000, 8999, 8200}, 1.0);
}

// A row has the same bits by a warp for each share and by four for all.
template <typename S>
void check_many_rows(int64_t vocab) {
  test::Logits<S> one(1, vocab, vocab, 0), many(1024, vocab, vocab, 1);
  one.fill(5);
  one.set(0, vocab / 2, -test::kInfinity);
  for (int64_t r = 0; r < many.rows; ++r) {
    for (int64_t j = 0; j < vocab; ++j) many.set(r, j, 0.0);
  }
  std::memcpy(many.row(777), one.row(0), static_cast<size_t>(vocab) * sizeof(S));
  std::vector<int64_t> targets(1024, 2);
  // Of the others nothing is asked.
  std::unique_ptr<bool[]> mask(new bool[1024]());
  mask[777] = true;
  Results<float> all(1024);
  ops::gather_logprobs(
      on_cuda(many.view()), on_cuda(view_of(targets)), on_cuda(view_of(mask.get(), {1024})),
      std::nullopt, 0.7, on_cuda(view_of(all.logprobs)), on_cuda(view_of(all.entropy)),
      on_cuda(view_of(all.logsumexp)), on_cuda(test::saved_view(&all.saved, 1024)));
  const Results<float> alone = on_device(&one, {2}, 0.7);
  CHECK(test::same_bits(all.logprobs[777], alone.logprobs[0]));
  CHECK(test::same_bits(all.entropy[777], alone.entropy[0]));
  CHECK(test::same_bits(all.logsumexp[777], alone.logsumexp[0]));
}

}  // namespace

int main() {
  check_limit();
  check_far();
  check_certain<float>();
  check_certain<BFloat16>();
  check_certain<Half>();
  check_silent_shares<float>();
  check_silent_shares<BFloat16>();
  check_peaks<float>();
  check_peaks<BFloat16>();
  check_many_rows<float>(4999);
  check_many_rows<BFloat16>(9001);
  return 0;
}
