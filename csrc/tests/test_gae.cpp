#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

int main() {
  // Two rows of three; the second has a hole and no last token.
  std::vector<double> reward = {0, 0, 1, 2, NAN, NAN}, value = {0.1, 0.2, 0.3, 0.5, NAN, NAN};
  bool mask[6] = {true, true, true, true, false, false};
  std::vector<double> advantage(6, -1.0), target(6, -1.0);
  const auto rows = [](auto* data) { return view_of(data, {2, 3}); };
  rlhf::ops::gae(rows(reward.data()), rows(value.data()), rows(mask), 0.5, 0.5, false,
                 rows(advantage.data()), rows(target.data()), {});
  const double expected[6] = {0.03125, 0.125, 0.7, 1.5, 0, 0};
  for (int i = 0; i < 6; ++i) {
    CHECK_NEAR(advantage[i], expected[i], 1e-15);
    CHECK_NEAR(target[i], mask[i] ? expected[i] + value[i] : 0.0, 1e-15);
  }

  rlhf::ops::gae(rows(reward.data()), rows(value.data()), rows(mask), 0.5, 0.5, true,
                 rows(advantage.data()), rows(target.data()), {});
  CHECK_NEAR(advantage[0] + advantage[1] + advantage[2] + advantage[3], 0.0, 1e-12);
  CHECK(advantage[4] == 0 && advantage[5] == 0);

  CHECK_REFUSED(rlhf::ops::gae(view_of(reward), view_of(value), view_of(mask, {6}), 1, 1, false,
                               view_of(advantage), view_of(target), {}),
                "'rewards'");
  CHECK_REFUSED(rlhf::ops::gae(rows(reward.data()), rows(value.data()), rows(mask), 1, 1.5, false,
                               rows(advantage.data()), rows(target.data()), {}),
                "'lam'");
  return 0;
}
