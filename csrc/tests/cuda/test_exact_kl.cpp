// exact_kl on emulated CUDA against the CPU column in fp64.
#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

struct Result {
  std::vector<float> kl;
  test::Saved saved;
};

template <typename S>
Result on_device(test::Logits<S>* x, test::Logits<S>* y, const ops::OptionalView& mask,
                 const ops::OptionalView& temperatures) {
  Result out;
  out.kl.resize(static_cast<size_t>(x->rows));
  ops::exact_kl(on_cuda(x->view()), on_cuda(y->view()), mask, temperatures, 1.3,
                on_cuda(view_of(out.kl)), on_cuda(test::saved_view(&out.saved, x->rows)));
  return out;
}

template <typename S>
void check(test::Logits<S>* x, test::Logits<S>* y, size_t out_phase) {
  const int64_t n = x->rows, v = x->vocab;
  std::vector<double> temperatures;
  std::unique_ptr<bool[]> counts(new bool[static_cast<size_t>(n)]);
  std::vector<float> grads;
  for (int64_t r = 0; r < n; ++r) {
    temperatures.push_back(0.5 + 0.3 * static_cast<double>(r % 4));
    counts[static_cast<size_t>(r)] = r % 5 != 3;
    grads.push_back(r == 1 ? 0.0f : 1.0f - 0.4f * static_cast<float>(r));
  }
  for (int64_t j = 0; n > 3 && j < v; ++j) x->set(3, j, NAN);  // masked: must not matter
  const TensorView mask = view_of(counts.get(), {n}), scales = view_of(temperatures);
  Result out = on_device(x, y, on_cuda(mask), on_cuda(scales));
  test::Logits<S> grad(n, v, v, out_phase);
  ops::exact_kl_backward(on_cuda(view_of(grads)), on_cuda(x->view()), on_cuda(y->view()),
                         on_cuda(view_of(out.kl)), on_cuda(test::saved_view(&out.saved, n)),
                         on_cuda(grad.view()));

  std::vector<double> wide = x->wide(), other = y->wide(), slope(wide.size());
  std::vector<double> kl(static_cast<size_t>(n)), upstream(grads.begin(), grads.end());
  test::Saved saved;
  const TensorView p = view_of(wide.data(), {n, v}), q = view_of(other.data(), {n, v});
  ops::exact_kl(p, q, mask, scales, 1.3, view_of(kl), test::saved_view(&saved, n));
  ops::exact_kl_backward(view_of(upstream), p, q, view_of(kl), test::saved_view(&saved, n),
                         view_of(slope.data(), {n, v}));
  for (size_t r = 0; r < static_cast<size_t>(n); ++r) {
    CHECK_AGREE(out.kl[r], kl[r], 2e-8 + 2e-6 * std::fabs(kl[r]));
    CHECK(!(out.kl[r] < 0.0f));
  }
  test::check_gradient(&grad, slope, 4e-6, saved, 5e-6);
}

// What no finite KL has: the rows' states differ in where they are -inf.
template <typename S>
void check_values() {
  for (const int64_t vocab : {1, 2, 7, 8, 9, 31, 2047, 2048, 2049, 5000}) {
    test::Logits<S> x(6, vocab, vocab % 2 == 0 ? vocab + 1 : vocab, 0), y(6, vocab, vocab + 2, 1);
    x.fill(static_cast<uint32_t>(vocab));
    y.fill(static_cast<uint32_t>(vocab) + 40);
    check(&x, &y, 3);
    test::Logits<S> hard(8, vocab, vocab + 1, 1), same(8, vocab, vocab, 0);
    hard.fill(5);
    same.fill(9);
    test::make_hard(&hard);
    for (int64_t j = 0; j < vocab; ++j) {
      same.set(0, j, hard.get(0, j) - 0.25 * static_cast<double>(j % 3));  // -inf in both
      same.set(4, j, hard.get(4, j));
      if (j % 5 == 0) hard.set(5, j, -test::kInfinity);  // p = 0 where q is not
    }
    check(&hard, &same, 0);
  }
}

// Equal rows give 0, bit for bit, whatever their alignments; nearly equal ones their small KL.
template <typename S>
void check_equal(int64_t vocab) {
  for (size_t phase = 0; phase < 16 / sizeof(S); ++phase) {
    test::Logits<S> x(3, vocab, vocab + 1, phase), y(3, vocab, vocab + 2, 1);
    x.fill(3);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t j = 0; j < vocab; ++j) y.set(r, j, x.get(r, j));
    }
    const Result out = on_device(&x, &y, std::nullopt, std::nullopt);
    for (const float kl : out.kl) CHECK(test::same_bits(kl, 0.0f));
  }
}

template <typename S>
void check_invariance(int64_t vocab) {
  test::Logits<S> x(1, vocab, vocab, 0), y(1, vocab, vocab, 0);
  x.fill(3);
  y.fill(4);
  const Result expected = on_device(&x, &y, std::nullopt, std::nullopt);
  for (size_t phase = 0; phase < 16 / sizeof(S); ++phase) {
    test::Logits<S> many(3, vocab, vocab + 1, phase), others(3, vocab, vocab, 2);
    many.fill(11);
    others.fill(12);
    for (int64_t j = 0; j < vocab; ++j) {
      many.set(2, j, x.get(0, j));
      others.set(2, j, y.get(0, j));
    }
    const Result out = on_device(&many, &others, std::nullopt, std::nullopt);
    CHECK(test::same_bits(out.kl[2], expected.kl[0]));
  }
}

void check_not_a_number() {
  test::Logits<float> x(3, 700, 700, 0), y(3, 700, 700, 0);
  x.fill(1);
  y.fill(2);
  x.set(0, 699, NAN);
  y.set(1, 0, NAN);
  std::vector<float> temperatures = {1.0f, 1.0f, NAN};
  const Result out = on_device(&x, &y, std::nullopt, on_cuda(view_of(temperatures)));
  for (const float kl : out.kl) CHECK(std::isnan(kl));
}

}  // namespace

int main() {
  check_values<float>();
  check_values<BFloat16>();
  check_values<Half>();
  check_equal<float>(2051);
  check_equal<BFloat16>(4099);
  check_invariance<float>(2051);
  check_invariance<Half>(9001);
  test::Logits<BFloat16> large(2, 50257, 50257, 0), other(2, 50257, 50257, 0);
  large.fill(2);
  other.fill(5);
  check(&large, &other, 0);
  check_not_a_number();
  return 0;
}
