// Runs under the sanitizers: sizes around every vector width, each row ending where its memory
// ends.
#include "check.h"
#include "cpu/rows.h"
#include "isa.h"
#include "ops.h"

using rlhf::TensorView;
using rlhf::cpu::kSavedColumns;
using rlhf::test::view_of;

namespace {

void check_uniform(int64_t vocab) {
  std::vector<float> logits(2 * vocab, 5.0f), lp(2), entropy(2), lse(2), grad(2 * vocab);
  std::vector<double> rows(2 * kSavedColumns);
  std::vector<int64_t> targets = {0, vocab - 1};
  const TensorView x = view_of(logits.data(), {2, vocab}), y = view_of(targets);
  const TensorView saved = view_of(rows.data(), {2, kSavedColumns});
  rlhf::ops::gather_logprobs(x, y, {}, {}, 1.0, view_of(lp), view_of(entropy), view_of(lse), saved);
  const double expected = std::log(static_cast<double>(vocab));
  CHECK_NEAR(lp[1], -expected, 1e-5);
  CHECK_NEAR(entropy[0], expected, 1e-5);
  CHECK_NEAR(lse[0], 5.0 + expected, 1e-5);

  std::vector<float> one(2, 1.0f), zero(2, 0.0f);
  rlhf::ops::gather_logprobs_backward(view_of(one), view_of(zero), view_of(zero), x, y, saved,
                                      view_of(grad.data(), {2, vocab}));
  CHECK_NEAR(grad[0], 1.0 - 1.0 / vocab, 1e-6);
}

void check_refusals() {
  std::vector<float> logits(8), lp(2), entropy(2), lse(2);
  std::vector<double> rows(2 * kSavedColumns);
  std::vector<int64_t> targets = {0, 4};
  const TensorView x = view_of(logits.data(), {2, 4}),
                   saved = view_of(rows.data(), {2, kSavedColumns});
  CHECK_REFUSED(rlhf::ops::gather_logprobs(x, view_of(targets), {}, {}, 1.0, view_of(lp),
                                           view_of(entropy), view_of(lse), saved),
                "got 4 at row 1");
  targets[1] = 3;
  CHECK_REFUSED(rlhf::ops::gather_logprobs(x, view_of(targets), {}, {}, 0.0, view_of(lp),
                                           view_of(entropy), view_of(lse), saved),
                "'temperature'");
}

}  // namespace

int main() {
  rlhf::test::on_every_isa([] {
    for (int64_t vocab : {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 2047, 2048, 2049, 5000}) {
      check_uniform(vocab);
    }
    check_refusals();
  });
  return 0;
}
