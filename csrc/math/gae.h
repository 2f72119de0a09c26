// Generalised advantage estimation, one step of the backward recurrence.
//
//   delta_t = r_t + gamma V_next - V_t        A_t = delta_t + gamma lam A_next
//
// V_next and A_next belong to the next unmasked position of the row and are 0 after the last one.
// Source: Schulman et al. 2015 (arXiv:1506.02438), equation 16.
#pragma once

#include "math/host_device.h"

namespace rlhf::math {

template <typename T>
struct GaeState {
  T next_value = T(0);
  T next_advantage = T(0);
};

template <typename T>
RLHF_HD T gae_delta(T reward, T value, T next_value, T gamma) {
  return reward + gamma * next_value - value;
}

// A -> base + slope * A: what a stretch of the row makes of the advantage that follows it.
// Composing such maps is associative, so the recurrence becomes a scan; a masked position is the
// identity.
template <typename T>
struct GaeMap {
  T base = T(0);
  T slope = T(1);

  RLHF_HD T operator()(T next_advantage) const { return base + slope * next_advantage; }
  // This map after `later`, which belongs to the positions behind it.
  RLHF_HD GaeMap after(const GaeMap& later) const {
    return {(*this)(later.base), slope * later.slope};
  }
};

// Returns the advantage of this position and moves the state to it.
template <typename T>
RLHF_HD T gae_step(GaeState<T>& state, T reward, T value, T gamma, T lam) {
  const T delta = gae_delta(reward, value, state.next_value, gamma);
  const T advantage = delta + gamma * lam * state.next_advantage;
  state.next_value = value;
  state.next_advantage = advantage;
  return advantage;
}

}  // namespace rlhf::math
