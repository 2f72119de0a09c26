#include "check.h"
#include "math/ranking_loss.h"
#include "ops.h"

using rlhf::test::view_of;

namespace {

struct Outputs {
  float loss = -1;
  std::vector<float> stats = std::vector<float>(6, -1.0f);
  std::vector<float> grad;
  double scale = -1;
};

Outputs run(std::vector<float> scores, std::vector<int64_t> ranks, std::vector<int64_t> offsets,
            const char* ties = "drop") {
  Outputs out;
  out.grad.resize(scores.size(), -1.0f);
  rlhf::ops::ranking_loss(view_of(scores), view_of(ranks), view_of(offsets), ties, {},
                          view_of(&out.loss, {}), view_of(out.stats), view_of(out.grad),
                          view_of(&out.scale, {}), {});
  return out;
}

// The fp32 form for GPUs against the other in fp64.
void check_quick_pairs() {
  for (const bool tie : {false, true}) {
    for (int i = -400; i <= 400; ++i) {
      const float difference = 0.05f * static_cast<float>(i);
      const auto quick = rlhf::math::quick_pair(tie, difference);
      const auto exact = rlhf::math::answer_pair<double>(tie, difference);
      CHECK_NEAR(quick.loss, exact.loss, 3e-7 * exact.loss);
      CHECK_NEAR(quick.ddifference, exact.ddifference, 2e-7);
    }
    CHECK(rlhf::math::quick_pair(tie, 1e4f).loss == (tie ? 5e3f : 0.0f));
    CHECK(std::isnan(rlhf::math::quick_pair(tie, NAN).loss));
  }
}

}  // namespace

int main() {
  check_quick_pairs();
  // Two prompts with a pair each, one of them 20000 apart the wrong way, and one without a pair.
  Outputs out = run({-1e4f, 1e4f, 0, 0, 7}, {1, 2, 1, 2, 1}, {0, 2, 4, 5});
  CHECK_NEAR(out.loss, (20000 + std::log(2.0)) / 2, 1e-3);
  CHECK(out.grad[0] == -1 && out.grad[1] == 1 && out.grad[2] == -0.5f && out.grad[4] == 0);
  CHECK(out.scale == 0.5 && out.stats[0] == 0.25f && out.stats[2] == 2 && out.stats[5] == 1);

  out = run({3, 1}, {1, 1}, {0, 2}, "half");
  CHECK_NEAR(out.loss, 0.5 * (std::log1p(std::exp(-2.0)) + std::log1p(std::exp(2.0))), 1e-6);
  CHECK_NEAR(out.grad[0], 0.5 * std::tanh(1.0), 1e-6);
  out = run({3, 1}, {1, 1}, {0, 2});
  CHECK(out.loss == 0 && out.grad[0] == 0 && out.stats[3] == 1);
  out = run({}, {}, {0});
  CHECK(out.loss == 0);

  CHECK_REFUSED(run({1, 2}, {1, 2}, {0, 1}), "'group_offsets'");
  CHECK_REFUSED(run({1, 2}, {1, 2}, {0, 5, 2}), "'group_offsets'");
  CHECK_REFUSED(run({1, 2}, {0, 1}, {0, 2}), "'ranks'");
  CHECK_REFUSED(run({1, 2}, {1}, {0, 2}), "'ranks'");
  CHECK_REFUSED(run({1, 2}, {1, 2}, {0, 2}, "keep"), "'ties'");
  return 0;
}
