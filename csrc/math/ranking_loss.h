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
