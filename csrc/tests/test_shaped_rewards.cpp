#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

int main() {
  // A row of three tokens and padding, and a row without tokens.
  std::vector<float> now = {-1, -2, -0.5f, NAN, NAN, NAN, NAN, NAN};
  std::vector<float> ref = {-1.5f, -1, -0.5f, NAN, NAN, NAN, NAN, NAN};
  std::vector<float> score = {2.0f, NAN}, out(8, -1.0f);
  bool mask[8] = {true, true, true};
  const auto rows = [](auto* data) { return view_of(data, {2, 4}); };
  rlhf::ops::shaped_rewards(view_of(score), rows(now.data()), rows(ref.data()), rows(mask), 0.1,
                            "k1", rows(out.data()));
  const float expected[8] = {-0.05f, 0.1f, 2.0f, 0, 0, 0, 0, 0};
  for (int i = 0; i < 8; ++i) CHECK_NEAR(out[i], expected[i], 1e-7);

  CHECK_REFUSED(rlhf::ops::shaped_rewards(view_of(out), rows(now.data()), rows(ref.data()),
                                          rows(mask), 0.1, "k1", rows(out.data())),
                "'scores'");
  CHECK_REFUSED(rlhf::ops::shaped_rewards(view_of(score), rows(now.data()), rows(ref.data()),
                                          rows(mask), 0.1, "kl", rows(out.data())),
                "'estimator'");
  return 0;
}
