// Advantages from scores and log-probs: the rewards of shaped_rewards.h, the recurrence of gae.h.
#pragma once

#include "math/gae.h"
#include "math/shaped_rewards.h"

namespace rlhf::math {

// The same recurrence with one number in place of two: S_t = gamma lam A_t + gamma V_t is all that
// the position before t needs, and 0 after the last one.
//
//   A_t = r_t - V_t + S_next     return_t = r_t + S_next     S_t = base + gamma lam S_next
//   with base = gamma (lam r_t + (1 - lam) V_t)
//
// The score, which comes on top of the last reward, stands in place of the 0 just as well.
template <typename T>
RLHF_HD GaeMap<T> gae_carry(T reward, T value, T gamma, T lam) {
  return {gamma * (lam * reward + (T(1) - lam) * value), gamma * lam};
}

}  // namespace rlhf::math
