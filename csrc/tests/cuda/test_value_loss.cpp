// value_loss on emulated CUDA against the CPU column.
#include "tests/cuda/token_loss.h"

using namespace rlhf;

namespace {

const test::LossCase kLoss = {"value_loss", ops::value_loss, 7, 0.2};

// The variance around a mean that squares in fp32 would drown in.
void check_far_from_zero() {
  test::LossInputs in = test::make_inputs(3000, test::Kept::kSome);
  for (float& value : in.first) value += 65536.0f;
  const auto got = test::run_loss<float>(kLoss, in, true);
  const auto truth = test::run_loss<double>(kLoss, in, false);
  CHECK_NEAR(got.sums[5], truth.sums[5], 1e-6 * truth.sums[5]);
}

}  // namespace

int main() {
  test::check_loss_column(kLoss, "values", "old_values");
  check_far_from_zero();
  return 0;
}
