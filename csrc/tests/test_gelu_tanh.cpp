#include "check.h"
#include "math/gelu_tanh.h"
#include "ops.h"

using rlhf::test::view_of;

namespace {

// Every count of a vector's rest, against the formula in float64.
void check_values() {
  for (int count = 0; count < 40; ++count) {
    std::vector<float> x(count), g(count, 2.0f), y(count + 1, -7.0f), d(count + 1, -7.0f);
    for (int i = 0; i < count; ++i) x[i] = -6.0f + 0.37f * static_cast<float>(i);
    rlhf::ops::gelu_tanh(view_of(x), view_of(y.data(), {count}));
    rlhf::ops::gelu_tanh_backward(view_of(g), view_of(x), view_of(d.data(), {count}));
    for (int i = 0; i < count; ++i) {
      CHECK_NEAR(y[i], rlhf::math::gelu_tanh(x[i]), 1e-6 * (1 + std::fabs(x[i])));
      CHECK_NEAR(d[i], 2 * rlhf::math::gelu_tanh_slope(x[i]), 2e-6);
    }
    CHECK(y[count] == -7.0f && d[count] == -7.0f);  // nothing is written past the end
  }
}

// The slope is the derivative of the value.
void check_slope() {
  for (double x = -7; x < 7; x += 0.25) {
    const double h = 1e-6;
    const double rise = rlhf::math::gelu_tanh(x + h) - rlhf::math::gelu_tanh(x - h);
    CHECK_NEAR(rlhf::math::gelu_tanh_slope(x), rise / (2 * h), 1e-8);
  }
  CHECK(rlhf::math::gelu_tanh_slope(-1000) == 0);
}

void check_far_out() {
  std::vector<float> x = {-1e4f, -30.0f, 30.0f, 1e4f, HUGE_VALF, NAN}, g(6, 1.0f), y(6), d(6);
  rlhf::ops::gelu_tanh(view_of(x), view_of(y));
  rlhf::ops::gelu_tanh_backward(view_of(g), view_of(x), view_of(d));
  CHECK(std::fabs(y[0]) < 1e-30f && std::fabs(y[1]) < 1e-30f);
  CHECK(y[2] == 30.0f && y[3] == 1e4f && y[4] == HUGE_VALF && std::isnan(y[5]));
  CHECK(std::fabs(d[0]) < 1e-20f && std::fabs(d[1]) < 1e-20f && d[2] == 1.0f && d[3] == 1.0f);
  CHECK(std::isnan(d[5]));
}

// Where x^2 overflows, and where a product of x with a tiny number is not tiny.
void check_too_large() {
  std::vector<float> x = {-HUGE_VALF, -3e38f, -2e19f, -1e13f, 1e13f, 2e19f, 3e38f, HUGE_VALF};
  std::vector<float> g(8, 1.0f), y(8), d(8);
  rlhf::ops::gelu_tanh(view_of(x), view_of(y));
  rlhf::ops::gelu_tanh_backward(view_of(g), view_of(x), view_of(d));
  for (int i = 0; i < 4; ++i) {
    CHECK(std::fabs(y[i]) < 1e-33f && std::fabs(d[i]) < 1e-33f);
    CHECK(y[4 + i] == x[4 + i] && d[4 + i] == 1.0f);
  }
}

}  // namespace

int main() {
  check_values();
  check_slope();
  check_far_out();
  check_too_large();
  std::vector<float> x(3), y(3);
  std::vector<double> wide(3);
  std::vector<int32_t> whole(3);
  CHECK_REFUSED(rlhf::ops::gelu_tanh(view_of(whole), view_of(y)), "'x'");
  CHECK_REFUSED(rlhf::ops::gelu_tanh_backward(view_of(wide), view_of(x), view_of(y)), "'grad_out'");
  return 0;
}
