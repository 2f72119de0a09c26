// gather_logprobs on emulated CUDA against the CPU column in fp64.
#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

template <typename C>
struct Results {
  explicit Results(int64_t rows)
      : logprobs(static_cast<size_t>(rows)), entropy(logprobs), logsumexp(logprobs) {}
  std::vector<C> logprobs, entropy, logsumexp;
  test::Saved saved;
};

template <typename S>
Results<float> on_device(test::Logits<S>* x, std::vector<int64_t> targets,
                         const ops::OptionalView& mask, const ops::OptionalView& temperatures) {
  Results<float> out(x->rows);
  ops::gather_logprobs(on_cuda(x->view()), on_cuda(view_of(targets)), mask, temperatures, 0.7,
                       on_cuda(view_of(out.logprobs)), on_cuda(view_of(out.entropy)),
                       on_cuda(view_of(out.logsumexp)),
                       on_cuda(test::saved_view(&out.saved, x->rows)));
  return out;
}

// Upstream gradients that differ by row.
std::vector<float> upstream(int64_t rows, float scale) {
  std::vector<float> grads;
  for (int64_t r = 0; r < rows; ++r) grads.push_back(scale * static_cast<float>(r % 3 - 1));
  return grads;
}

template <typename S>
void check(test::Logits<S>* x, size_t out_phase) {
  const int64_t n = x->rows, v = x->vocab;
  std::vector<int64_t> targets = test::targets_for(n, v);
  std::vector<float> temperatures;
  std::unique_ptr<bool[]> counts(new bool[static_cast<size_t>(n)]);
  for (int64_t r = 0; r < n; ++r) {
    temperatures.push_back(0.5f + 0.3f * static_cast<float>(r % 4));
    counts[static_cast<size_t>(r)] = r % 5 != 3;
  }
  for (int64_t j = 0; n > 3 && j < v; ++j) x->set(3, j, NAN);  // masked: must not matter
  const TensorView mask = view_of(counts.get(), {n}), scales = view_of(temperatures);
  const Results<float> out = on_device(x, targets, on_cuda(mask), on_cuda(scales));
  test::Logits<S> grad(n, v, v, out_phase);
  std::vector<float> g1 = upstream(n, 1.0f), g2 = upstream(n, -0.5f), g3 = upstream(n, 0.25f);
  test::Saved saved = out.saved;
  ops::gather_logprobs_backward(on_cuda(view_of(g1)), on_cuda(view_of(g2)), on_cuda(view_of(g3)),
                                on_cuda(x->view()), on_cuda(view_of(targets)),
                                on_cuda(test::saved_view(&saved, n)), on_cuda(grad.view()));

  std::vector<double> wide = x->wide(), slope(wide.size());
  Results<double> truth(n);
  const TensorView logits = view_of(wide.data(), {n, v});
  ops::gather_logprobs(logits, view_of(targets), mask, scales, 0.7, view_of(truth.logprobs),
                       view_of(truth.entropy), view_of(truth.logsumexp),
                       test::saved_view(&truth.saved, n));
  std::vector<double> w1(g1.begin(), g1.end()), w2(g2.begin(), g2.end()), w3(g3.begin(), g3.end());
  ops::gather_logprobs_backward(view_of(w1), view_of(w2), view_of(w3), logits, view_of(targets),
                                test::saved_view(&truth.saved, n), view_of(slope.data(), {n, v}));
  for (size_t r = 0; r < static_cast<size_t>(n); ++r) {
    CHECK_AGREE(out.logprobs[r], truth.logprobs[r], 4e-7 * (1.0 + std::fabs(truth.logprobs[r])));
    CHECK_AGREE(out.entropy[r], truth.entropy[r], 2e-6);
    CHECK_AGREE(out.logsumexp[r], truth.logsumexp[r], 4e-7 * (1.0 + std::fabs(truth.logsumexp[r])));
    CHECK(!(out.logprobs[r] > 0.0f));
  }
  test::check_gradient(&grad, slope, 2e-6, truth.saved, 3e-7);
}

template <typename S>
void check_values() {
  for (const int64_t vocab : {1, 2, 7, 8, 9, 31, 2047, 2048, 2049, 5000}) {
    // An odd distance gives every row another alignment.
    test::Logits<S> x(8, vocab, vocab % 2 == 0 ? vocab + 1 : vocab, 0);
    x.fill(static_cast<uint32_t>(vocab));
    check(&x, 3);
    test::Logits<S> hard(8, vocab, vocab + 1, 1);
    hard.fill(5);
    test::make_hard(&hard);
    check(&hard, 0);
  }
}

// The same row gives the same bits at every alignment, in every batch, at every place.
template <typename S>
void check_invariance(int64_t vocab) {
  test::Logits<S> first(1, vocab, vocab, 0);
  first.fill(3);
  const Results<float> expected = on_device(&first, {vocab / 2}, std::nullopt, std::nullopt);
  for (size_t phase = 0; phase < 16 / sizeof(S); ++phase) {
    test::Logits<S> x(3, vocab, vocab + 1, phase);
    x.fill(11);
    for (int64_t j = 0; j < vocab; ++j) x.set(1, j, first.get(0, j));
    const Results<float> got = on_device(&x, {0, vocab / 2, 0}, std::nullopt, std::nullopt);
    CHECK(test::same_bits(got.logprobs[1], expected.logprobs[0]));
    CHECK(test::same_bits(got.entropy[1], expected.entropy[0]));
    CHECK(test::same_bits(got.logsumexp[1], expected.logsumexp[0]));
  }
}

// What the CPU refuses by reading gives NaN here, and nothing outside the row is touched.
void check_bad_values() {
  test::Logits<float> x(4, 50, 50, 0), grad(4, 50, 50, 0);
  x.fill(1);
  std::vector<int64_t> targets = {50, -1, 3, 4};
  std::vector<float> temperatures = {1.0f, 1.0f, 0.0f, 1.0f}, ones(4, 1.0f);
  const Results<float> out = on_device(&x, targets, std::nullopt, on_cuda(view_of(temperatures)));
  test::Saved saved = out.saved;
  ops::gather_logprobs_backward(
      on_cuda(view_of(ones)), on_cuda(view_of(ones)), on_cuda(view_of(ones)), on_cuda(x.view()),
      on_cuda(view_of(targets)), on_cuda(test::saved_view(&saved, 4)), on_cuda(grad.view()));
  for (int64_t r = 0; r < 4; ++r) {
    const bool bad = r < 3;
    CHECK(std::isnan(out.logprobs[static_cast<size_t>(r)]) == bad);
    CHECK(std::isnan(out.entropy[static_cast<size_t>(r)]) == bad);
    for (int64_t j = 0; j < 50; ++j) CHECK(std::isnan(grad.get(r, j)) == bad);
  }
}

void check_nan_and_infinity() {
  test::Logits<BFloat16> x(3, 3000, 3001, 0);
  x.fill(1);
  x.set(0, 2999, NAN);
  x.set(1, 17, test::kInfinity);
  for (int64_t j = 0; j < 3000; ++j) x.set(2, j, -test::kInfinity);
  const Results<float> out = on_device(&x, {0, 0, 0}, std::nullopt, std::nullopt);
  for (size_t r = 0; r < 3; ++r) CHECK(std::isnan(out.logprobs[r]) && std::isnan(out.entropy[r]));
}

void check_refusals() {
  test::Logits<float> x(2, 8, 8, 0);
  std::vector<int64_t> targets(2);
  std::vector<float> values(2);
  std::vector<double> wide(16), saved(20);
  const TensorView n = on_cuda(view_of(values)), t = on_cuda(view_of(targets));
  const TensorView rows = on_cuda(view_of(saved.data(), {2, 10}));
  CHECK_REFUSED(ops::gather_logprobs(on_cuda(x.view()), view_of(targets), std::nullopt,
                                     std::nullopt, 1.0, n, n, n, rows),
                "'targets' is on the CPU, but 'logits' is on cuda:0");
  CHECK_REFUSED(ops::gather_logprobs(on_cuda(view_of(wide.data(), {2, 8})), t, std::nullopt,
                                     std::nullopt, 1.0, n, n, n, rows),
                "'logits' is float64 on a CUDA device");
  CHECK_REFUSED(
      ops::gather_logprobs(on_cuda(x.view()), t, std::nullopt, std::nullopt, 0.0, n, n, n, rows),
      "'temperature' must be at least 0.0001");
}

}  // namespace

int main() {
  check_values<float>();
  check_values<BFloat16>();
  check_values<Half>();
  check_invariance<float>(4999);
  check_invariance<BFloat16>(9001);
  check_invariance<Half>(50);
  test::Logits<BFloat16> large(2, 50257, 50257, 0);
  large.fill(2);
  check(&large, 0);
  check_bad_values();
  check_nan_and_infinity();
  check_refusals();
  return 0;
}
