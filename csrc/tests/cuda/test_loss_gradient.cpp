// loss_gradient on emulated CUDA against the CPU column: the same bits.
#include "tests/cuda/tokens.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

void check_size(int64_t count, size_t phase) {
  std::vector<float> grad(static_cast<size_t>(count) + phase), here(grad.size(), -1.0f);
  test::fill_normal(grad.data(), grad.size(), 1.0, 3);
  std::vector<float> there = here;
  float upstream = 1.7f;
  double scale = 1.0 / 300.0;
  const auto run = [&](std::vector<float>& out, const auto& place) {
    ops::loss_gradient(place(view_of(grad.data() + phase, {count})), place(view_of(&upstream, {})),
                       place(view_of(&scale, {})), place(view_of(out.data() + phase, {count})));
  };
  run(here, [](const TensorView& view) { return view; });
  run(there, on_cuda);
  CHECK(test::same_bits(here, there));
}

void check_refusals() {
  std::vector<float> grad(4), out(4);
  float upstream = 1.0f;
  double scale = 1.0;
  const TensorView x = on_cuda(view_of(grad)), one = on_cuda(view_of(&upstream, {}));
  const TensorView factor = on_cuda(view_of(&scale, {})), to = on_cuda(view_of(out));
  CHECK_REFUSED(ops::loss_gradient(x, view_of(&upstream, {}), factor, to),
                "'upstream' is on the CPU, but 'grad' is on cuda:0");
  CHECK_REFUSED(ops::loss_gradient(x, one, view_of(&scale, {}), to), "'scale' is on the CPU");
  CHECK_REFUSED(ops::loss_gradient(x, one, one, to), "'scale'");
}

}  // namespace

int main() {
  for (const int64_t count : test::kTokenCounts) {
    for (const size_t phase : {0, 1}) check_size(count, phase);
  }
  check_refusals();
  return 0;
}
