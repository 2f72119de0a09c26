// token_kl on emulated CUDA against the CPU column in fp64.
#include "ops.h"
#include "tests/cuda/columns.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

template <typename S>
void check_tokens(int64_t count, const char* estimator, double storage_rounding) {
  const size_t n = static_cast<size_t>(count);
  test::Placed<S> now(n, 1), ref(n, 3), grad(n, 0);
  test::fill_normal(now.data(), n, 2.0, 1);
  test::fill_normal(ref.data(), n, 2.0, 2);
  std::vector<float> out(n), upstream(n, 1.0f);
  ops::token_kl(on_cuda(view_of(now.data(), {count})), on_cuda(view_of(ref.data(), {count})),
                estimator, on_cuda(view_of(out)));
  ops::token_kl_backward(on_cuda(view_of(upstream)), on_cuda(view_of(now.data(), {count})),
                         on_cuda(view_of(ref.data(), {count})), estimator,
                         on_cuda(view_of(grad.data(), {count})));

  std::vector<double> x = test::widened(now.data(), n), y = test::widened(ref.data(), n);
  std::vector<double> truth(n), slope(n), one(n, 1.0);
  ops::token_kl(view_of(x), view_of(y), estimator, view_of(truth));
  ops::token_kl_backward(view_of(one), view_of(x), view_of(y), estimator, view_of(slope));
  for (size_t i = 0; i < n; ++i) {
    CHECK_NEAR(out[i], truth[i], 5e-7 * (1.0 + std::fabs(truth[i])));
    CHECK_NEAR(cpu::load(&grad[i]), slope[i], storage_rounding * (1.0 + std::fabs(slope[i])));
  }
}

void check_refusals() {
  std::vector<double> wide(4);
  std::vector<float> narrow(4);
  CHECK_REFUSED(
      ops::token_kl(on_cuda(view_of(wide)), on_cuda(view_of(wide)), "k1", on_cuda(view_of(wide))),
      "'logprobs' is float64 on a CUDA device");
  CHECK_REFUSED(ops::token_kl(on_cuda(view_of(narrow)), view_of(narrow), "k1", view_of(narrow)),
                "'ref_logprobs' is on the CPU, but 'logprobs' is on cuda:0");
}

}  // namespace

int main() {
  for (const char* estimator : {"k1", "k2", "k3"}) {
    for (const int64_t count : {0, 1, 31, 255, 256, 257, 1000}) {
      check_tokens<float>(count, estimator, 5e-7);
      check_tokens<BFloat16>(count, estimator, 1.0 / 256);
      check_tokens<Half>(count, estimator, 1.0 / 2048);
    }
  }
  check_refusals();
  return 0;
}
