// shaped_rewards on the CPU. Reads 8 bytes and the mask per token, writes 4 (fp32); fp64
// arithmetic. A row is walked from its end, so the first unmasked token met is the one that gets
// the score. Formula: csrc/math/shaped_rewards.h.
#include "cpu/shaped_rewards.h"

#include "cpu/parallel.h"
#include "dispatch.h"
#include "math/shaped_rewards.h"

namespace rlhf::cpu {

void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    math::KlEstimator estimator, const TensorView& rewards) {
  dispatch_compute("shaped_rewards", "logprobs", logprobs.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* score = scores.as<T>();
    const T* now = logprobs.as<T>();
    const T* ref = ref_logprobs.as<T>();
    const uint8_t* keep = mask.as<uint8_t>();
    T* reward = rewards.as<T>();
    const int64_t length = logprobs.shape[1];
    parallel_rows(logprobs.shape[0], length, [=](int64_t row) {
      double pending = score[row];
      for (int64_t i = (row + 1) * length - 1; i >= row * length; --i) {
        if (!keep[i]) {
          reward[i] = T(0);
          continue;
        }
        reward[i] = static_cast<T>(math::shaped_reward<double>(estimator, now[i], ref[i], kl_coef) +
                                   pending);
        pending = 0;
      }
    });
  });
}

}  // namespace rlhf::cpu
