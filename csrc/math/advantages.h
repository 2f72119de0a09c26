// Advantages from scores and log-probs: the rewards of shaped_rewards.h, the recurrence of gae.h.
#pragma once

#include "math/gae.h"
#include "math/shaped_rewards.h"

namespace rlhf::math {

// The same recurrence with one number in place of two: S_t = gamma lam A_t + gamma V_t is all that
// the position before t needs, and 0 after the last one.
//
//   A_t = r_t - V_t + S_next                return_t = r_t + S_next
//   S_t = gamma lam (r_t + S_next) + gamma (1 - lam) V_t
//
// The score, which comes on top of the last reward, stands in place of the 0 just as well.
template <typename T>
struct GaeRates {
  T decay = T(0);   // gamma lam
  T bridge = T(0);  // gamma (1 - lam)
};

template <typename T>
RLHF_HD GaeRates<T> gae_rates(T gamma, T lam) {
  return {gamma * lam, gamma * (T(1) - lam)};
}

template <typename T>
RLHF_HD GaeMap<T> gae_carry(T reward, T value, const GaeRates<T>& rates) {
  return {rates.decay * reward + rates.bridge * value, rates.decay};
}

}  // namespace rlhf::math
