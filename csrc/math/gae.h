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

// Returns the advantage of this position and moves the state to it.
template <typename T>
RLHF_HD T gae_step(GaeState<T>& state, T reward, T value, T gamma, T lam) {
  const T delta = reward + gamma * state.next_value - value;
  const T advantage = delta + gamma * lam * state.next_advantage;
  state.next_value = value;
  state.next_advantage = advantage;
  return advantage;
}

}  // namespace rlhf::math
