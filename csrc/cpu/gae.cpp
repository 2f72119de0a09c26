// gae on the CPU. One pass over each row from its end: reads 8 bytes and the mask per token, writes
// 8 (fp32); the recurrence runs in fp64. Whitening re-reads the advantages. Masked entries are
// never read and give 0. Formula: csrc/math/gae.h.
#include "cpu/gae.h"

#include "cpu/parallel.h"
#include "cpu/whiten.h"
#include "dispatch.h"
#include "math/gae.h"

namespace rlhf::cpu {

void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns) {
  dispatch_compute("gae", "rewards", rewards.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* reward = rewards.as<T>();
    const T* value = values.as<T>();
    const uint8_t* keep = mask.as<uint8_t>();
    T* advantage = advantages.as<T>();
    T* target = returns.as<T>();
    const int64_t length = rewards.shape[1];
    parallel_rows(rewards.shape[0], length, [=](int64_t row) {
      math::GaeState<double> state;
      for (int64_t i = (row + 1) * length - 1; i >= row * length; --i) {
        const double result =
            keep[i] ? math::gae_step<double>(state, reward[i], value[i], gamma, lam) : 0.0;
        advantage[i] = static_cast<T>(result);
        target[i] = keep[i] ? static_cast<T>(result + value[i]) : T(0);
      }
    });
  });
  if (whiten_advantages) whiten(advantages, mask, true, advantages);
}

}  // namespace rlhf::cpu
