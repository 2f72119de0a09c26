// advantages on emulated CUDA against the CPU column.
#include "cuda/launch.cuh"
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

struct Case {
  int64_t rows;
  int64_t length;
  const char* estimator;
  bool whiten;
};

struct Inputs {
  std::vector<float> scores, logprobs, ref, values;
  std::vector<char> mask;
};

Inputs make_inputs(int64_t rows, int64_t length) {
  test::Numbers numbers(7);
  Inputs in;
  in.mask.resize(static_cast<size_t>(rows * length));
  for (int64_t i = 0; i < rows * length; ++i) {
    const int64_t row = i / length, t = i % length;
    const bool kinds[] = {true, numbers.uniform() < 0.5, t<length / 3, t> length / 2, false};
    in.mask[static_cast<size_t>(i)] = kinds[row % 5];
  }
  in.scores.resize(static_cast<size_t>(rows));
  test::fill_normal(in.scores.data(), in.scores.size(), 1.0, 6);
  in.logprobs = test::hidden_normal(in.mask, 1.0, 8);
  in.ref = test::hidden_normal(in.mask, 1.0, 9);
  in.values = test::hidden_normal(in.mask, 1.0, 10);
  return in;
}

// Advantages, returns, rewards.
template <typename T, typename Place>
std::vector<T> run(const Case& c, const Inputs& in, const Place& place) {
  const auto shape = {c.rows, c.length};
  const auto widen = [](const std::vector<float>& x) { return std::vector<T>(x.begin(), x.end()); };
  std::vector<T> scores = widen(in.scores), logprobs = widen(in.logprobs), ref = widen(in.ref);
  std::vector<T> values = widen(in.values);
  std::vector<char> mask = in.mask;
  const size_t n = mask.size();
  std::vector<T> out(3 * n, T(-1));
  const auto tokens = [&](T* data) { return place(view_of(data, shape)); };
  const TensorView first = place(view_of(scores));
  std::vector<double> workspace =
      test::make_workspace("advantages", first, c.whiten ? c.rows * c.length : 0);
  ops::advantages(first, tokens(logprobs.data()), tokens(ref.data()), tokens(values.data()),
                  place(test::mask_view(mask, shape)), 0.3, c.estimator, 0.99, 0.95, c.whiten,
                  tokens(out.data()), tokens(out.data() + n), tokens(out.data() + 2 * n),
                  place(view_of(workspace)));
  return out;
}

void check_case(const Case& c) {
  const Inputs in = make_inputs(c.rows, c.length);
  const auto got = run<float>(c, in, on_cuda);
  const auto truth = run<double>(c, in, [](const TensorView& view) { return view; });
  for (size_t i = 0; i < got.size(); ++i) {
    // Rewards are in fp32, and whitening starts from advantages that were rounded.
    CHECK_NEAR(got[i], truth[i], 5e-7 + 5e-7 * std::fabs(truth[i]));
    CHECK(in.mask[i % in.mask.size()] || got[i] == 0.0f);
  }
}

void check_order() {
  const Case c = {13, 177, "k3", true};
  const Inputs in = make_inputs(c.rows, c.length);
  const auto forward = test::in_order("forward", [&] { return run<float>(c, in, on_cuda); });
  for (const char* order : {"reverse", "shuffled"}) {
    CHECK(test::same_bits(test::in_order(order, [&] { return run<float>(c, in, on_cuda); }),
                          forward));
  }
}

void check_kernels() {
  for (const char* estimator : {"k1", "k2", "k3"}) {
    for (const int64_t length : {0, 1, 33, 64, 257}) {
      for (const bool whiten : {false, true}) check_case({13, length, estimator, whiten});
    }
  }
  check_case({0, 5, "k1", true});
  check_case({5, 4096, "k1", true});
  check_order();
}

}  // namespace

int main() {
  check_kernels();
  check_case({2, 4100, "k1", true});        // longer than a block scans
  emulation::device().resident_blocks = 1;  // whitened by launches of their own
  check_kernels();
  emulation::device() = {};
  emulation::device().capability = 80;
  check_kernels();
  return 0;
}
