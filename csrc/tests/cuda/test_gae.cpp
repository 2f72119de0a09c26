// gae on emulated CUDA against the CPU column.
#include "cuda/launch.cuh"
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

struct Case {
  int64_t rows;
  int64_t length;
  double gamma;
  double lam;
  bool whiten;
};

struct Inputs {
  std::vector<float> rewards, values;
  std::vector<char> mask;
};

// Rows of every kind: full, with holes, leading or trailing entries masked, nothing left.
Inputs make_inputs(int64_t rows, int64_t length) {
  test::Numbers numbers(7);
  Inputs in;
  in.mask.resize(static_cast<size_t>(rows * length));
  for (int64_t i = 0; i < rows * length; ++i) {
    const int64_t row = i / length, t = i % length;
    const bool kinds[] = {true, numbers.uniform() < 0.5, t<length / 3, t> length / 2, false,
                          numbers.uniform() < 0.03};
    in.mask[static_cast<size_t>(i)] = kinds[row % 6];
  }
  in.rewards = test::hidden_normal(in.mask, 1.0, 8);
  in.values = test::hidden_normal(in.mask, 1.0, 9);
  return in;
}

// Advantages, then returns.
std::vector<float> run_cuda(const Case& c, Inputs in) {
  const auto shape = {c.rows, c.length};
  const size_t n = in.mask.size();
  std::vector<float> out(2 * n, -1.0f);
  const TensorView rewards = on_cuda(view_of(in.rewards.data(), shape));
  std::vector<double> workspace =
      test::make_workspace("gae", rewards, c.whiten ? c.rows * c.length : 0);
  ops::gae(rewards, on_cuda(view_of(in.values.data(), shape)),
           on_cuda(test::mask_view(in.mask, shape)), c.gamma, c.lam, c.whiten,
           on_cuda(view_of(out.data(), shape)), on_cuda(view_of(out.data() + n, shape)),
           on_cuda(view_of(workspace)));
  return out;
}

std::vector<double> run_truth(const Case& c, Inputs in) {
  const auto shape = {c.rows, c.length};
  const size_t n = in.mask.size();
  std::vector<double> rewards = test::widened(in.rewards), values = test::widened(in.values);
  std::vector<double> out(2 * n);
  ops::gae(view_of(rewards.data(), shape), view_of(values.data(), shape),
           test::mask_view(in.mask, shape), c.gamma, c.lam, c.whiten, view_of(out.data(), shape),
           view_of(out.data() + n, shape), {});
  return out;
}

void check_case(const Case& c) {
  const Inputs in = make_inputs(c.rows, c.length);
  const std::vector<float> got = run_cuda(c, in);
  const std::vector<double> truth = run_truth(c, in);
  // Whitening starts from advantages that were rounded to fp32.
  const double rounding = c.whiten ? 3e-7 : 6.1e-8;
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK_NEAR(got[i], truth[i],
               rounding * (c.whiten ? 1.0 : 0.0) + rounding * std::fabs(truth[i]) + 1e-13);
    CHECK(in.mask[i % in.mask.size()] || got[i] == 0.0f);
  }
}

// A row's bits are the same alone, among others, and in every order of threads.
void check_position_and_order() {
  const Case all = {13, 77, 0.99, 0.95, false}, alone = {1, 77, 0.99, 0.95, false};
  const Inputs in = make_inputs(all.rows, all.length);
  const std::vector<float> together = run_cuda(all, in);
  const auto cut = [](const auto& x, size_t row) {
    return typename std::decay<decltype(x)>::type(x.begin() + static_cast<long>(row * 77),
                                                  x.begin() + static_cast<long>(row * 77 + 77));
  };
  for (size_t row = 0; row < 13; ++row) {
    const Inputs one = {cut(in.rewards, row), cut(in.values, row), cut(in.mask, row)};
    CHECK(test::same_bits(cut(run_cuda(alone, one), 0), cut(together, row)));
  }
  for (const char* order : {"forward", "reverse", "shuffled"}) {
    const Case whitened = {13, 177, 1.0, 0.95, true};
    const Inputs long_rows = make_inputs(whitened.rows, whitened.length);
    const auto run = [&] { return run_cuda(whitened, long_rows); };
    CHECK(test::same_bits(test::in_order(order, run), run()));
  }
}

void check_refusals() {
  std::vector<float> x(4);
  std::vector<double> wide(4), workspace(32);
  std::vector<char> mask(4, 1);
  const TensorView keep = on_cuda(test::mask_view(mask, {2, 2}));
  const auto rows = [](auto& data) { return on_cuda(view_of(data.data(), {2, 2})); };
  CHECK_REFUSED(ops::gae(rows(wide), rows(wide), keep, 1, 1, false, rows(wide), rows(wide), {}),
                "'rewards' is float64 on a CUDA device");
  CHECK_REFUSED(ops::gae(rows(x), view_of(x.data(), {2, 2}), keep, 1, 1, false, rows(x), rows(x),
                         on_cuda(view_of(workspace))),
                "'values' is on the CPU, but 'rewards' is on cuda:0");
  CHECK_REFUSED(ops::gae(rows(x), rows(x), keep, 1, 1, true, rows(x), rows(x), {}),
                "'workspace' is missing");
}

void check_kernels() {
  for (const int64_t length : {0, 1, 2, 31, 32, 33, 64, 257}) {
    for (const bool whiten : {false, true}) {
      check_case({13, length, 0.99, 0.95, whiten});
      check_case({6, length, 1.0, 1.0, whiten});
    }
  }
  check_case({0, 5, 0.99, 0.95, true});
  check_case({7, 33, 0.0, 0.95, false});
  check_case({7, 33, 1.0, 0.0, false});
  check_case({6, 4096, 1.0, 0.95, true});
  check_position_and_order();
}

}  // namespace

int main() {
  check_kernels();
  check_case({2, 4100, 1.0, 0.95, true});  // longer than a block scans
  check_case({40, 129, 0.9, 1.0, true});
  check_case({4, 1024, 1.0, 0.95, true});
  check_case({3, 1, 1.0, 0.95, true});
  check_case({3000, 1, 1.0, 0.95, true});   // partial sums do not fit into the workspace
  emulation::device().resident_blocks = 1;  // whitened by launches of their own
  check_kernels();
  emulation::device() = {};
  emulation::device().capability = 80;
  check_kernels();
  check_refusals();
  return 0;
}
