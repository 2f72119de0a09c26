// shaped_rewards on emulated CUDA against the CPU column.
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

void check_size(int64_t rows, int64_t length, const char* estimator) {
  const auto shape = {rows, length};
  std::vector<char> mask = test::make_mask(rows * length, test::Kept::kSome, 10);
  for (int64_t i = 0; i < rows * length; ++i) {
    const int64_t row = i / length, t = i % length;
    if (row % 4 == 1) mask[static_cast<size_t>(i)] = t == 0;
    if (row % 4 == 2) mask[static_cast<size_t>(i)] = t + 40 < length;
    if (row % 4 == 3) mask[static_cast<size_t>(i)] = 0;
  }
  std::vector<float> now = test::hidden_normal(mask, 1.0, 11);
  std::vector<float> ref = test::hidden_normal(mask, 1.0, 12);
  std::vector<float> scores(static_cast<size_t>(rows)), out(mask.size(), -1.0f);
  test::fill_normal(scores.data(), scores.size(), 1.0, 13);
  ops::shaped_rewards(on_cuda(view_of(scores)), on_cuda(view_of(now.data(), shape)),
                      on_cuda(view_of(ref.data(), shape)), on_cuda(test::mask_view(mask, shape)),
                      0.05, estimator, on_cuda(view_of(out.data(), shape)));

  std::vector<double> x = test::widened(now), y = test::widened(ref), s = test::widened(scores);
  std::vector<double> truth(mask.size());
  ops::shaped_rewards(view_of(s), view_of(x.data(), shape), view_of(y.data(), shape),
                      test::mask_view(mask, shape), 0.05, estimator, view_of(truth.data(), shape));
  for (size_t i = 0; i < out.size(); ++i) {
    CHECK_NEAR(out[i], truth[i], 6.1e-8 * std::fabs(truth[i]) + 1e-13);
    CHECK(mask[i] || out[i] == 0.0f);
  }
}

void check_refusals() {
  std::vector<float> x(4), scores(2);
  std::vector<double> wide(4), wide_scores(2);
  std::vector<char> mask(4, 1);
  const TensorView keep = on_cuda(test::mask_view(mask, {2, 2}));
  const auto rows = [](auto& data) { return on_cuda(view_of(data.data(), {2, 2})); };
  CHECK_REFUSED(ops::shaped_rewards(on_cuda(view_of(wide_scores)), rows(wide), rows(wide), keep, 1,
                                    "k1", rows(wide)),
                "'logprobs' is float64 on a CUDA device");
  CHECK_REFUSED(ops::shaped_rewards(view_of(scores), rows(x), rows(x), keep, 1, "k1", rows(x)),
                "'scores' is on the CPU, but 'logprobs' is on cuda:0");
}

}  // namespace

int main() {
  for (const char* estimator : {"k1", "k2", "k3"}) {
    for (const int64_t length : {0, 1, 31, 32, 33, 64, 257}) {
      for (const int64_t rows : {0, 1, 8, 13}) check_size(rows, length, estimator);
    }
  }
  check_refusals();
  return 0;
}
