#include "check.h"
#include "ops.h"

using rlhf::test::view_of;

int main() {
  std::vector<float> x = {1.0f, NAN, 3.0f}, out(3, -1.0f);
  bool mask[3] = {true, false, true};
  rlhf::ops::whiten(view_of(x), view_of(mask, {3}), true, view_of(out), {});
  CHECK_NEAR(out[0], -1.0, 1e-6);
  CHECK(out[1] == 0.0f);
  CHECK_NEAR(out[2], 1.0, 1e-6);
  rlhf::ops::whiten(view_of(x), view_of(mask, {3}), false, view_of(out), {});
  CHECK_NEAR(out[0], 1.0, 1e-6);
  CHECK_NEAR(out[2], 3.0, 1e-6);

  // More entries than one block, in place, around a mean that fp32 squares would drown in.
  std::vector<float> wide(10001);
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = i % 2 ? 4097.0f : 4095.0f;
  wide.back() = 4096.0f;
  std::vector<char> keep(wide.size(), 1);
  rlhf::TensorView all = view_of(reinterpret_cast<bool*>(keep.data()), {10001});
  rlhf::ops::whiten(view_of(wide), all, true, view_of(wide), {});
  CHECK_NEAR(wide[0], -std::sqrt(10001.0 / 10000.0), 1e-6);
  CHECK_NEAR(wide.back(), 0.0, 1e-6);

  CHECK_REFUSED(rlhf::ops::whiten(view_of(x), view_of(x), true, view_of(out), {}), "'mask'");
  return 0;
}
