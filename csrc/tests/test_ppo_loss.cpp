#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

namespace {

struct Outputs {
  float loss = -1;
  std::vector<float> stats = std::vector<float>(8, -1.0f);
  std::vector<float> grad;
  double scale = -1;
};

Outputs run(std::vector<float> now, std::vector<float> old, std::vector<float> advantage,
            const bool* mask, double cliprange, std::optional<double> denominator = {}) {
  Outputs out;
  const auto count = static_cast<int64_t>(now.size());
  out.grad.resize(now.size(), -1.0f);
  double divisor = denominator.value_or(0);
  rlhf::ops::OptionalView view;
  if (denominator) view = view_of(&divisor, {});
  rlhf::ops::ppo_loss(view_of(now), view_of(old), view_of(advantage),
                      view_of(const_cast<bool*>(mask), {count}), cliprange, view,
                      view_of(&out.loss, {}), view_of(out.stats), view_of(out.grad),
                      view_of(&out.scale, {}), {});
  return out;
}

}  // namespace

int main() {
  const float nan = NAN;
  const bool keep[3] = {true, false, true};
  // The kept tokens: ratio 1 with A = 2, and ratio e with A = 1, clipped to 1.2.
  Outputs out = run({-1.0f, nan, 0.0f}, {-1.0f, nan, -1.0f}, {2.0f, nan, 1.0f}, keep, 0.2);
  CHECK_NEAR(out.loss, -1.6, 1e-6);
  CHECK(out.scale == 0.5);
  CHECK(out.grad[0] == -2.0f && out.grad[1] == 0.0f && out.grad[2] == 0.0f);
  CHECK_NEAR(out.stats[3], 0.5, 0);
  CHECK_NEAR(out.stats[6], 2.7182818, 1e-6);

  out = run({-1.0f, nan, 0.0f}, {-1.0f, nan, -1.0f}, {2.0f, nan, 1.0f}, keep, 0.2, 8.0);
  CHECK_NEAR(out.loss, -0.4, 1e-6);

  const bool none[3] = {false, false, false};
  out = run({nan, nan, nan}, {nan, nan, nan}, {nan, nan, nan}, none, 0.2);
  CHECK(out.loss == 0 && out.scale == 0 && out.grad[0] == 0);
  out = run({}, {}, {}, none, 0.2);
  CHECK(out.loss == 0);

  CHECK_REFUSED(run({0, 0, 0}, {0, 0}, {0, 0, 0}, keep, 0.2), "'old_logprobs'");
  CHECK_REFUSED(run({0, 0, 0}, {0, 0, 0}, {0, 0, 0}, keep, -0.2), "'cliprange'");
  CHECK_REFUSED(run({0, 0, 0}, {0, 0, 0}, {0, 0, 0}, keep, 0.2, 0.0), "'denominator'");
  return 0;
}
