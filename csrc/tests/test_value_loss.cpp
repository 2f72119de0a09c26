#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

int main() {
  // Old values 0, c = 0.2. Clipping enlarges the first error, not the second; the third is masked.
  std::vector<double> value = {1.0, 1.0, NAN}, old = {0.0, 0.0, NAN}, target = {1.0, 0.0, NAN};
  std::vector<double> stats(7), grad(3);
  bool mask[3] = {true, true, false};
  double loss = -1, scale = -1;
  rlhf::ops::value_loss(view_of(value), view_of(old), view_of(target), view_of(mask, {3}), 0.2, {},
                        view_of(&loss, {}), view_of(stats), view_of(grad), view_of(&scale, {}), {});
  CHECK_NEAR(loss, 0.5 * (0.64 + 1.0) / 2, 1e-15);
  CHECK(grad[0] == 0 && grad[1] == 1 && grad[2] == 0 && scale == 0.5);
  CHECK_NEAR(stats[1], 0.5, 0);   // clipfrac
  CHECK_NEAR(stats[2], 0.5, 0);   // error
  CHECK_NEAR(stats[4], 0.0, 0);   // variance of the values
  CHECK_NEAR(stats[6], 0.25, 0);  // variance of the returns

  CHECK_REFUSED(rlhf::ops::value_loss(view_of(value), view_of(old), view_of(target),
                                      view_of(mask, {2}), 0.2, {}, view_of(&loss, {}),
                                      view_of(stats), view_of(grad), view_of(&scale, {}), {}),
                "'mask'");
  CHECK_REFUSED(rlhf::ops::value_loss(view_of(value), view_of(old), view_of(target),
                                      view_of(mask, {3}), NAN, {}, view_of(&loss, {}),
                                      view_of(stats), view_of(grad), view_of(&scale, {}), {}),
                "'cliprange_value'");
  return 0;
}
