// Bradley-Terry loss of one pair of answers to the same prompt.
//
//   loss = -log sigmoid(d) = softplus(-d),  d = s_better - s_worse       d loss / d d =
//   -sigmoid(-d) a tied pair counted half each way: 0.5 softplus(-d) + 0.5 softplus(d), derivative
//   sigmoid(d) - 0.5
//
// Nothing here overflows: every exponential has a non-positive argument.
// Source: InstructGPT (arXiv:2203.02155), section 3.5, equation 1.
#pragma once

#include <cmath>

#include "math/exp_pair.h"
#include "math/host_device.h"

namespace rlhf::math {

template <typename T>
struct PairLoss {
  T loss;
  T ddifference;
};

template <typename T>
RLHF_HD PairLoss<T> ranked_pair(T difference) {
  const T tail = std::exp(-std::fabs(difference));
  const T rise = difference < T(0) ? -difference : T(0);
  const T sigmoid_negated = (difference < T(0) ? T(1) : tail) / (T(1) + tail);
  return {rise + std::log1p(tail), -sigmoid_negated};
}

template <typename T>
RLHF_HD PairLoss<T> tied_pair(T difference) {
  const T magnitude = std::fabs(difference);
  const T tail = std::exp(-magnitude);
  const T half_tanh = T(0.5) * std::tanh(T(0.5) * difference);
  return {T(0.5) * magnitude + std::log1p(tail), half_tanh};
}

template <typename T>
RLHF_HD PairLoss<T> answer_pair(bool tie, T difference) {
  return tie ? tied_pair(difference) : ranked_pair(difference);
}

// log(1 + t), 0 <= t <= 1: a Chebyshev fit of log(1 + t) / t, relative error 5e-9 before rounding.
RLHF_HD float log1p_unit(float t) {
  float q = -0x1.9eb634p-9f;
  q = q * t + 0x1.3f4948p-6f;
  q = q * t - 0x1.ccf5c0p-5f;
  q = q * t + 0x1.af6dfep-4f;
  q = q * t - 0x1.389784p-3f;
  q = q * t + 0x1.92a85cp-3f;
  q = q * t - 0x1.fefffap-3f;
  q = q * t + 0x1.554bb8p-2f;
  q = q * t - 0x1.ffffb6p-2f;
  return t + t * t * q;
}

// answer_pair() in fp32, without a branch or a call. Absolute error 2e-7 of the derivative and of a
// loss of order 1; that of a loss far below 1 is relative.
RLHF_HD PairLoss<float> quick_pair(bool tie, float difference) {
  const float magnitude = std::fabs(difference);
  // exp_pair() ends at -87 nats.
  const float tail = magnitude > 87.0f ? 0.0f : exp_pair(-magnitude).exp;
  const float share = 1.0f / (1.0f + tail);  // sigmoid of the magnitude
  const float larger = difference < 0.0f ? share : tail * share;
  const float half_tanh = difference < 0.0f ? 0.5f - share : share - 0.5f;
  const float rise = difference < 0.0f ? magnitude : 0.0f;
  const float log_term = log1p_unit(tail);
  return {(tie ? 0.5f * magnitude : rise) + log_term, tie ? half_tanh : -larger};
}

// The sums behind the loss and its statistics.
struct RankingSum {
  double loss = 0;     // sum over prompts of the mean over their pairs
  double prompts = 0;  // with at least one pair
  double skipped = 0;
  double pairs = 0;  // of different rank
  double tied = 0;
  double right = 0;  // pairs ordered rightly; equal scores count half
  double margin = 0;

  // difference = s_better - s_worse; a tie is counted, it has no better answer.
  RLHF_HD void add_pair(bool tie, double difference) {
    (tie ? tied : pairs) += 1;
    if (tie) return;
    right += difference > 0 ? 1.0 : (difference == 0 ? 0.5 : 0.0);
    margin += difference;
  }

  RLHF_HD void merge(const RankingSum& other) {
    loss += other.loss;
    prompts += other.prompts;
    skipped += other.skipped;
    pairs += other.pairs;
    tied += other.tied;
    right += other.right;
    margin += other.margin;
  }
};

}  // namespace rlhf::math
