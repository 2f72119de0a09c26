// ppo_loss on emulated CUDA against the CPU column.
#include "tests/cuda/token_loss.h"

using namespace rlhf;

namespace {

const test::LossCase kLoss = {"ppo_loss", ops::ppo_loss, 8, 0.2};

// Equal log-probs give a ratio of exactly 1; a token 100 nats away stays finite; NaN shows.
void check_extremes() {
  test::LossInputs in = {{-1, -2, 50}, {-1, -2, -50}, {1, -1, -1}, {1, 1, 0}};
  auto got = test::run_loss<float>(kLoss, in, true);
  CHECK(got.sums[0] == 0.0f && got.sums[5] == 1.0f && got.sums[6] == 0.0f);
  CHECK(got.sums[7] == 1.0f && got.sums[8] == 0.0f);
  in.mask[2] = 1;
  got = test::run_loss<float>(kLoss, in, true);
  CHECK(std::isfinite(got.sums[0]) && got.sums[7] > 1e34f && got.grad[2] > 1e34f);
  in.second[2] = NAN;
  got = test::run_loss<float>(kLoss, in, true);
  CHECK(std::isnan(got.sums[0]) && std::isnan(got.sums[7]) && std::isnan(got.sums[8]));
}

}  // namespace

int main() {
  test::check_loss_column(kLoss, "logprobs", "old_logprobs");
  check_extremes();
  emulation::device().capability = 80;
  check_extremes();
  return 0;
}
