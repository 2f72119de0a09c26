// whiten on emulated CUDA against the CPU column.
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::Kept;
using test::on_cuda;
using test::view_of;

namespace {

std::vector<float> run_cuda(std::vector<float> x, std::vector<char> mask, bool shift_mean,
                            bool in_place = false) {
  const auto count = static_cast<int64_t>(x.size());
  std::vector<float> out(x.size(), -1.0f);
  const TensorView view = on_cuda(view_of(x));
  std::vector<double> workspace = test::make_workspace("whiten", view, count);
  ops::whiten(view, on_cuda(test::mask_view(mask, {count})), shift_mean,
              in_place ? view : on_cuda(view_of(out)), on_cuda(view_of(workspace)));
  return in_place ? x : out;
}

std::vector<double> run_truth(const std::vector<float>& x, std::vector<char> mask,
                              bool shift_mean) {
  std::vector<double> wide = test::widened(x), out(x.size());
  const auto count = static_cast<int64_t>(x.size());
  ops::whiten(view_of(wide), test::mask_view(mask, {count}), shift_mean, view_of(out), {});
  return out;
}

void check_size(int64_t count, Kept kept, double offset) {
  const std::vector<char> mask = test::make_mask(count, kept, 5);
  std::vector<float> x = test::hidden_normal(mask, 2.0, 6);
  for (float& entry : x) entry += static_cast<float>(offset);
  for (const bool shift_mean : {true, false}) {
    const std::vector<float> got = run_cuda(x, mask, shift_mean);
    const std::vector<double> truth = run_truth(x, mask, shift_mean);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK_NEAR(got[i], truth[i], 7e-8 * std::fabs(truth[i]) + 1e-12);
    }
  }
}

void check_order_and_place() {
  const std::vector<char> mask = test::make_mask(5000, Kept::kSome, 5);
  const std::vector<float> x = test::hidden_normal(mask, 2.0, 6);
  const auto forward = test::in_order("forward", [&] { return run_cuda(x, mask, true); });
  for (const char* order : {"forward", "reverse", "shuffled"}) {
    const auto again = test::in_order(order, [&] { return run_cuda(x, mask, true, true); });
    CHECK(test::same_bits(again, forward));
  }
}

// More blocks than the second launch has: each of its blocks takes several.
void check_many_blocks() {
  const std::vector<char> mask = test::make_mask(258 * 1024 + 3, Kept::kLast, 5);
  std::vector<float> x(mask.size(), 3.0f);
  const std::vector<float> got = run_cuda(x, mask, false);
  for (size_t i = 0; i + 1 < got.size(); ++i) CHECK(got[i] == 0.0f);
  CHECK_NEAR(got.back(), 3.0, 1e-6);
}

void check_refusals() {
  std::vector<float> x(4);
  std::vector<double> wide(4), workspace(32);
  std::vector<char> mask(4, 1);
  const TensorView keep = on_cuda(test::mask_view(mask, {4})), space = on_cuda(view_of(workspace));
  CHECK_REFUSED(ops::whiten(on_cuda(view_of(wide)), keep, true, on_cuda(view_of(wide)), space),
                "'x' is float64 on a CUDA device");
  CHECK_REFUSED(ops::whiten(view_of(x), keep, true, view_of(x), {}),
                "'mask' is on cuda:0, but 'x' is on the CPU");
  CHECK_REFUSED(ops::whiten(on_cuda(view_of(x)), keep, true, on_cuda(view_of(x)), {}),
                "'workspace' is missing");
}

}  // namespace

int main() {
  for (const int64_t count : test::kTokenCounts) {
    for (const Kept kept : {Kept::kNone, Kept::kAll, Kept::kSome, Kept::kLast}) {
      check_size(count, kept, 0.0);
    }
  }
  check_size(5000, Kept::kSome, 4096.0);
  check_order_and_place();
  // Hundreds of blocks take seconds here; the order of threads is tested above.
  const char* order = std::getenv("RLHF_EMULATION_ORDER");
  if (order == nullptr || std::string(order) == "forward") check_many_blocks();
  check_refusals();
  return 0;
}
