#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

int main() {
  std::vector<float> x = {-1.0f, -2.0f, 0.0f}, ref = {-1.0f, -1.0f, -100.0f}, y(3), g(3, 1.0f);
  rlhf::ops::token_kl(view_of(x), view_of(ref), "k1", view_of(y));
  CHECK(y[0] == 0.0f && y[1] == -1.0f && y[2] == 100.0f);
  rlhf::ops::token_kl(view_of(x), view_of(ref), "k3", view_of(y));
  CHECK_NEAR(y[1], 0.7182818, 1e-6);
  rlhf::ops::token_kl(view_of(ref), view_of(x), "k3", view_of(y));
  CHECK(std::isfinite(y[2]) && y[2] > 1e34f);
  rlhf::ops::token_kl_backward(view_of(g), view_of(x), view_of(ref), "k2", view_of(y));
  CHECK(y[0] == 0.0f && y[1] == -1.0f && y[2] == 100.0f);

  std::vector<float> shorter(2);
  CHECK_REFUSED(rlhf::ops::token_kl(view_of(x), view_of(shorter), "k1", view_of(y)),
                "'ref_logprobs'");
  CHECK_REFUSED(rlhf::ops::token_kl(view_of(x), view_of(ref), "k4", view_of(y)), "'estimator'");
  return 0;
}
