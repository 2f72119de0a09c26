#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

namespace {

// Two rows of three; the second has no last token. Log-probs differ by 0.5 or by nothing.
struct Batch {
  std::vector<double> scores = {1.25, 2}, logprobs = {-1, -1, -1, -2, NAN, NAN};
  std::vector<double> ref = {-1, -1, -1.5, -2, NAN, NAN}, values = {0.1, 0.2, 0.3, 0.5, NAN, NAN};
  bool mask[6] = {true, true, true, true, false, false};
  std::vector<double> advantages = std::vector<double>(6, -1.0), returns = advantages;
  std::vector<double> rewards = advantages;

  void run(const char* estimator, double kl_coef, double lam, bool whiten) {
    const auto rows = [](auto* data) { return view_of(data, {2, 3}); };
    rlhf::ops::advantages(view_of(scores), rows(logprobs.data()), rows(ref.data()),
                          rows(values.data()), rows(mask), kl_coef, estimator, 0.5, lam, whiten,
                          rows(advantages.data()), rows(returns.data()), rows(rewards.data()), {});
  }
};

}  // namespace

int main() {
  Batch batch;
  batch.run("k1", 0.5, 0.5, false);
  const double rewards[6] = {0, 0, 1, 2, 0, 0}, expected[6] = {0.03125, 0.125, 0.7, 1.5, 0, 0};
  for (size_t i = 0; i < 6; ++i) {
    CHECK_NEAR(batch.rewards[i], rewards[i], 1e-15);
    CHECK_NEAR(batch.advantages[i], expected[i], 1e-15);
    CHECK_NEAR(batch.returns[i], batch.mask[i] ? expected[i] + batch.values[i] : 0.0, 1e-15);
  }
  batch.run("k1", 0.5, 0.5, true);
  CHECK_NEAR(batch.advantages[0] + batch.advantages[1] + batch.advantages[2] + batch.advantages[3],
             0.0, 1e-12);
  CHECK_REFUSED(batch.run("k4", 0.5, 0.5, false), "'estimator'");
  CHECK_REFUSED(batch.run("k1", -0.5, 0.5, false), "'kl_coef'");
  CHECK_REFUSED(batch.run("k1", 0.5, 1.5, false), "'lam'");
  return 0;
}
