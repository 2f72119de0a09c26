// ranking_loss on emulated CUDA against the CPU column.
#include "cuda/launch.cuh"
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

struct Batch {
  std::vector<float> scores;
  std::vector<int64_t> ranks;
  std::vector<int64_t> offsets;
};

template <typename T>
struct Result {
  std::vector<T> sums = std::vector<T>(7, T(-1));  // the loss, then the statistics
  std::vector<T> grad;
  double scale = -1;
};

template <typename T>
Result<T> run(Batch in, const char* ties, bool cuda, std::optional<double> denominator = {}) {
  Result<T> out;
  std::vector<T> scores(in.scores.begin(), in.scores.end());
  out.grad.assign(scores.size(), T(-1));
  const auto place = [&](const TensorView& view) { return cuda ? on_cuda(view) : view; };
  double divisor = denominator.value_or(0);
  ops::OptionalView denominator_view, workspace_view;
  if (denominator) denominator_view = place(view_of(&divisor, {}));
  std::vector<double> workspace = test::make_workspace("ranking_loss", place(view_of(scores)),
                                                       static_cast<int64_t>(in.offsets.size()) - 1);
  if (cuda) workspace_view = place(view_of(workspace));
  ops::ranking_loss(place(view_of(scores)), place(view_of(in.ranks)), place(view_of(in.offsets)),
                    ties, denominator_view, place(view_of(out.sums.data(), {})),
                    place(view_of(out.sums.data() + 1, {6})), place(view_of(out.grad)),
                    place(view_of(&out.scale, {})), workspace_view);
  return out;
}

// Prompts with 0 to 40 answers; few ranks make many ties.
Batch make_batch(int prompts, double spread, uint32_t seed) {
  test::Numbers numbers(seed);
  const int sizes[] = {9, 1, 4, 40, 0, 2, 33, 7, 32, 1, 5};
  Batch batch;
  batch.offsets = {0};
  for (int prompt = 0; prompt < prompts; ++prompt) {
    const int answers = sizes[prompt % 11];
    for (int i = 0; i < answers; ++i) {
      batch.scores.push_back(static_cast<float>(spread * numbers.normal()));
      batch.ranks.push_back(1 + static_cast<int64_t>(6 * numbers.uniform()));
    }
    batch.offsets.push_back(batch.offsets.back() + answers);
  }
  return batch;
}

void check_batch(const Batch& batch, const char* ties, std::optional<double> denominator) {
  const auto got = run<float>(batch, ties, true, denominator);
  const auto same = run<float>(batch, ties, false, denominator);
  const auto truth = run<double>(batch, ties, false, denominator);
  // One block computes pairs in fp32; several compute in fp64, and the results are rounded.
  const bool block = emulation::device().capability >= 90 && batch.scores.size() <= 1024;
  const double relative = block ? 3e-7 : 6.1e-8, absolute = block ? 2e-7 : 1e-13;
  for (size_t i = 0; i < got.sums.size(); ++i) {
    CHECK_NEAR(got.sums[i], truth.sums[i], relative * std::fabs(truth.sums[i]) + absolute);
    CHECK_NEAR(got.sums[i], same.sums[i], 3 * relative * std::fabs(truth.sums[i]) + absolute);
  }
  for (size_t i = 0; i < got.grad.size(); ++i) {
    CHECK_NEAR(got.grad[i], truth.grad[i], relative * std::fabs(truth.grad[i]) + absolute);
  }
  CHECK(got.scale == truth.scale);
}

// Every result is NaN; so is the gradient, by its scale, and from `first` to `last`, where only
// wrong prompts write, by itself.
void check_poisoned(Batch batch, size_t first, size_t last) {
  const auto got = run<float>(batch, "drop", true);
  for (const float sum : got.sums) CHECK(std::isnan(sum));
  CHECK(std::isnan(got.scale));
  for (size_t i = first; i < last; ++i) CHECK(std::isnan(got.grad[i]));
}

void check_wrong_entries() {
  const std::vector<float> scores = {0, 1, 2, 3, 4, 5};
  const std::vector<int64_t> ranks = {1, 2, 3, 1, 2, 3};
  const int64_t huge = int64_t(1) << 62;
  check_poisoned({scores, ranks, {0, 5}}, 0, 6);            // ends early
  check_poisoned({scores, ranks, {0, 7}}, 0, 6);            // ends late
  check_poisoned({scores, ranks, {1, 6}}, 0, 6);            // starts late
  check_poisoned({scores, ranks, {-1, 3, 6}}, 0, 3);        // starts early
  check_poisoned({scores, ranks, {0, 4, 2, 6}}, 0, 0);      // decreases
  check_poisoned({scores, ranks, {0, huge, 6}}, 0, 6);      // far outside
  check_poisoned({scores, ranks, {0, 3, -huge, 6}}, 3, 6);  // far outside
  check_poisoned({scores, ranks, {0}}, 0, 0);               // no prompt for these scores
  check_poisoned({scores, {1, 2, 0, 1, 2, 3}, {0, 3, 6}}, 0, 3);
  check_poisoned({scores, {1, 2, 3, -5, 2, 3}, {0, 3, 6}}, 3, 6);
}

void check_order() {
  const Batch batch = make_batch(37, 1.0, 14);
  const auto forward = test::in_order("forward", [&] { return run<float>(batch, "half", true); });
  for (const char* order : {"forward", "reverse", "shuffled"}) {
    const auto again = test::in_order(order, [&] { return run<float>(batch, "half", true); });
    CHECK(test::same_bits(again.sums, forward.sums) && test::same_bits(again.grad, forward.grad));
  }
}

void check_refusals() {
  std::vector<float> x(2), out(6);
  std::vector<double> wide(2), workspace(32);
  std::vector<int64_t> ranks = {1, 2}, offsets = {0, 2};
  const ops::OptionalView space = on_cuda(view_of(workspace));
  const auto call = [&](const TensorView& scores, const TensorView& rank, const TensorView& offset,
                        const ops::OptionalView& divisor, const ops::OptionalView& sums) {
    ops::ranking_loss(scores, rank, offset, "drop", divisor, on_cuda(view_of(out.data(), {})),
                      on_cuda(view_of(out)), on_cuda(view_of(x)), on_cuda(view_of(wide.data(), {})),
                      sums);
  };
  const TensorView scores = on_cuda(view_of(x)), rank = on_cuda(view_of(ranks));
  const TensorView offset = on_cuda(view_of(offsets));
  CHECK_REFUSED(call(on_cuda(view_of(wide)), rank, offset, {}, space),
                "'scores' is float64 on a CUDA device");
  CHECK_REFUSED(call(scores, view_of(ranks), offset, {}, space), "'ranks' is on the CPU");
  CHECK_REFUSED(call(scores, rank, view_of(offsets), {}, space), "'group_offsets' is on the CPU");
  CHECK_REFUSED(call(scores, rank, offset, view_of(wide.data(), {}), space),
                "'denominator' is on the CPU");
  CHECK_REFUSED(call(scores, rank, offset, {}, {}), "'workspace' is missing");
}

void check_kernels() {
  for (const char* ties : {"drop", "half"}) {
    for (const int prompts : {0, 1, 2, 7, 8, 9, 37}) {
      check_batch(make_batch(prompts, 1.0, 15), ties, {});
      check_batch(make_batch(prompts, 1e4, 16), ties, 50.0);
    }
    check_batch({{-1e4f, 1e4f, 3, 3}, {1, 2, 1, 1}, {0, 2, 4}}, ties, {});
  }
  const auto zero = run<float>(make_batch(5, 1.0, 15), "drop", true, 0.0);
  for (const float sum : zero.sums) CHECK(std::isnan(sum));
  CHECK(std::isnan(zero.scale));
  check_wrong_entries();
  check_order();
}

void check_nan_scores() {
  Batch batch = make_batch(9, 1.0, 17);
  batch.scores[0] = NAN;
  const auto got = run<float>(batch, "drop", true), same = run<float>(batch, "drop", false);
  for (size_t i = 0; i < got.sums.size(); ++i) {
    CHECK(std::isnan(got.sums[i]) == std::isnan(same.sums[i]));
  }
  for (size_t i = 0; i < got.grad.size(); ++i) {
    CHECK(std::isnan(got.grad[i]) == std::isnan(same.grad[i]));
  }
  CHECK(got.sums[1] == same.sums[1]);
}

}  // namespace

int main() {
  check_kernels();
  check_nan_scores();
  check_batch(make_batch(83, 1.0, 15), "half", {});  // as many as one block takes, nearly
  check_batch(make_batch(84, 1.0, 15), "half", {});  // more
  emulation::device().capability = 80;
  check_kernels();
  check_nan_scores();
  check_refusals();
  return 0;
}
