// Runs under the sanitizers: every term at sizes around the vector widths, in place and not.
#include "check.h"
#include "cpu/ppo_loss_from_logits.h"
#include "cpu/rows.h"
#include "isa.h"
#include "ops.h"

using rlhf::TensorView;
using rlhf::cpu::kSavedColumns;
using rlhf::test::view_of;

namespace {

// Row 0 counts for PPO, row 1 for pretraining, row 2 for nothing (and holds NaN and a bad target).
struct Batch {
  explicit Batch(int64_t vocab)
      : vocab(vocab),
        logits(3 * vocab, 0.0f),
        ref_logits(3 * vocab, 0.0f),
        grad(3 * vocab, 7.0f),
        rows(3 * kSavedColumns) {
    for (int64_t i = 2 * vocab; i < 3 * vocab; ++i) logits[i] = NAN;
    old = {-std::log(static_cast<float>(vocab)), NAN, NAN};
  }
  TensorView matrix(std::vector<float>& data) { return view_of(data.data(), {3, vocab}); }
  TensorView saved() { return view_of(rows.data(), {3, kSavedColumns}); }
  rlhf::ops::PolicyTensors tensors() {
    return {matrix(logits),
            view_of(targets),
            view_of(old),
            view_of(advantages),
            view_of(static_cast<bool*>(mask), {3}),
            {},
            matrix(ref_logits),
            view_of(static_cast<bool*>(ptx), {3}),
            {},
            {},
            {}};
  }

  int64_t vocab;
  std::vector<float> logits, ref_logits, grad, old, advantages = {1.0f, NAN, NAN};
  std::vector<double> rows;
  std::vector<int64_t> targets = {0, 0, -100};
  bool mask[3] = {true, false, false};
  bool ptx[3] = {false, true, false};
};

void check_size(int64_t vocab) {
  const rlhf::ops::PolicyScalars scalars = {1.0, 0.2, 0.1, 0.5, 2.0, "k3"};
  Batch batch(vocab);
  std::vector<float> loss(1), stats(rlhf::cpu::kObjectiveStats), one(1, 1.0f);
  const TensorView loss_view = view_of(loss.data(), {});
  rlhf::ops::ppo_loss_from_logits(batch.tensors(), scalars, loss_view, view_of(stats),
                                  batch.saved(), std::nullopt);
  // ratio 1, KL 0: -A - 0.1 H + 2 log V with H = log V.
  CHECK_NEAR(loss[0], -1.0 + 1.9 * std::log(static_cast<double>(vocab)), 1e-5);
  rlhf::ops::ppo_loss_from_logits_backward(
      batch.matrix(batch.logits), batch.matrix(batch.ref_logits), view_of(batch.targets),
      batch.saved(), view_of(one.data(), {}), batch.matrix(batch.grad));
  const double share = 1.0 / static_cast<double>(vocab);
  CHECK_NEAR(batch.grad[0], -(1.0 - share), 1e-6);
  CHECK_NEAR(batch.grad[vocab], -2.0 * (1.0 - share), 1e-6);
  for (int64_t i = 2 * vocab; i < 3 * vocab; ++i) CHECK(batch.grad[i] == 0.0f);

  rlhf::ops::ppo_loss_from_logits_(batch.tensors(), scalars, loss_view, view_of(stats),
                                   batch.saved(), std::nullopt);
  CHECK(batch.logits == batch.grad);
  one[0] = 3.0f;
  rlhf::ops::ppo_loss_from_logits_scale_(batch.matrix(batch.logits), batch.saved(),
                                         view_of(one.data(), {}));
  CHECK_NEAR(batch.logits[0], -3.0 * (1.0 - share), 1e-5);
}

void check_refusals() {
  Batch batch(4);
  std::vector<float> loss(1), stats(rlhf::cpu::kObjectiveStats);
  const auto call = [&](const rlhf::ops::PolicyScalars& scalars) {
    rlhf::ops::ppo_loss_from_logits(batch.tensors(), scalars, view_of(loss.data(), {}),
                                    view_of(stats), batch.saved(), std::nullopt);
  };
  CHECK_REFUSED(call({1.0, 0.2, 0.0, 0.1, 0.0, "k1"}), "k1's expected gradient is zero");
  CHECK_REFUSED(call({1.0, -0.2, 0.0, 0.0, 0.0, "k3"}), "'cliprange'");
  batch.targets[1] = 4;
  CHECK_REFUSED(call({1.0, 0.2, 0.0, 0.0, 0.0, "k3"}), "got 4 at row 1");
}

}  // namespace

int main() {
  rlhf::test::on_every_isa([] {
    for (int64_t vocab : {1, 2, 7, 8, 9, 16, 17, 65, 2048, 2049, 5000}) check_size(vocab);
    check_refusals();
  });
  return 0;
}
