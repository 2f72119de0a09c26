// shaped_rewards on CUDA. A warp walks its row from the end, 32 positions at a time; the first
// unmasked one that it meets gets the score. Reads 8 bytes and the mask per token, writes 4; fp64
// arithmetic. Formula: csrc/math/shaped_rewards.h.
#include "cuda/launch.cuh"
#include "cuda/shaped_rewards.h"
#include "math/shaped_rewards.h"

namespace rlhf::cuda {
namespace {

constexpr int kRowsPerBlock = 8;
constexpr int kThreads = kRowsPerBlock * kWarpSize;

struct Rows {
  const float* scores;
  const float* logprobs;
  const float* ref_logprobs;
  const uint8_t* mask;
  int64_t count;
  int64_t length;
};

__global__ void shaped_rewards_kernel(Rows rows, double kl_coef, math::KlEstimator estimator,
                                      float* rewards) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  if (row >= rows.count) return;
  bool scored = false;
  for (int64_t left = rows.length; left > 0; left -= kWarpSize) {
    const int64_t position = left - 1 - lane_index();
    const int64_t i = row * rows.length + position;
    const bool keep = position >= 0 && rows.mask[i];
    const unsigned kept = __ballot_sync(kFullWarp, keep);
    const bool last = !scored && lane_index() == __ffs(static_cast<int>(kept)) - 1;
    scored = scored || kept != 0;
    if (position < 0) continue;
    double reward = 0;
    if (keep) {
      reward =
          math::shaped_reward<double>(estimator, rows.logprobs[i], rows.ref_logprobs[i], kl_coef);
    }
    rewards[i] = static_cast<float>(last ? reward + rows.scores[row] : reward);
  }
}

}  // namespace

void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    math::KlEstimator estimator, const TensorView& rewards) {
  const Rows rows = {
      scores.as<const float>(), logprobs.as<const float>(), ref_logprobs.as<const float>(),
      mask.as<const uint8_t>(), logprobs.shape[0],          logprobs.shape[1]};
  launch("shaped_rewards", Target(logprobs), shaped_rewards_kernel,
         blocks_for(rows.count, kRowsPerBlock), kThreads, 0, rows, kl_coef, estimator,
         rewards.as<float>());
}

}  // namespace rlhf::cuda
