// ranking_loss on the CPU. Every unordered pair of a prompt's answers is visited once; arithmetic
// and sums are fp64, prompts are added in order within blocks of fixed size, and blocks in order.
// The gradient is written before the division, as in ppo_loss.cpp. Formula:
// csrc/math/ranking_loss.h.
#include "cpu/ranking_loss.h"

#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/ranking_loss.h"

namespace rlhf::cpu {
namespace {

constexpr int64_t kPromptBlock = 64;

using math::RankingSum;

struct PromptSum {
  double loss = 0;
  double pairs = 0;  // counted ties included
};

template <typename T>
PromptSum add_pairs(const T* score, const int64_t* rank, int64_t count, bool count_ties,
                    double* grad, RankingSum& sum) {
  PromptSum prompt;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = i + 1; j < count; ++j) {
      const bool tie = rank[i] == rank[j];
      const int64_t better = rank[i] <= rank[j] ? i : j;
      const int64_t worse = i + j - better;
      const double difference = static_cast<double>(score[better]) - score[worse];
      sum.add_pair(tie, difference);
      if (tie && !count_ties) continue;
      const auto pair = math::answer_pair(tie, difference);
      grad[better] += pair.ddifference;
      grad[worse] -= pair.ddifference;
      prompt.loss += pair.loss;
      prompt.pairs += 1;
    }
  }
  return prompt;
}

template <typename T>
RankingSum reduce_prompts(const TensorView& scores, const TensorView& ranks,
                          const TensorView& group_offsets, bool count_ties,
                          const TensorView& score_grad) {
  const T* score = scores.as<T>();
  const int64_t* rank = ranks.as<int64_t>();
  const int64_t* offset = group_offsets.as<int64_t>();
  T* grad = score_grad.as<T>();
  const int64_t prompts = group_offsets.shape[0] - 1;
  return reduce_blocks<RankingSum>(
      prompts, kPromptBlock, 8 * scores.numel(), [=](int64_t begin, int64_t end, RankingSum& sum) {
        std::vector<double> pending;
        for (int64_t g = begin; g < end; ++g) {
          const int64_t first = offset[g];
          const int64_t count = offset[g + 1] - first;
          pending.assign(static_cast<size_t>(count), 0.0);
          const PromptSum prompt =
              add_pairs(score + first, rank + first, count, count_ties, pending.data(), sum);
          const double share = prompt.pairs > 0 ? 1.0 / prompt.pairs : 0.0;
          (prompt.pairs > 0 ? sum.prompts : sum.skipped) += 1;
          sum.loss += prompt.loss * share;
          for (int64_t i = 0; i < count; ++i) {
            grad[first + i] = static_cast<T>(pending[static_cast<size_t>(i)] * share);
          }
        }
      });
}

}  // namespace

void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, bool count_ties,
                  std::optional<double> denominator, const TensorView& loss,
                  const TensorView& stats, const TensorView& score_grad, const TensorView& scale) {
  dispatch_compute("ranking_loss", "scores", scores.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RankingSum sum = reduce_prompts<T>(scores, ranks, group_offsets, count_ties, score_grad);
    const double factor = mean_scale("ranking_loss", denominator, sum.prompts);
    const double per_pair = sum.pairs > 0 ? 1.0 / sum.pairs : 0.0;
    write_values<T>(loss, {sum.loss * factor});
    write_values<T>(stats, {sum.right * per_pair, sum.margin * per_pair, sum.pairs, sum.tied,
                            sum.prompts, sum.skipped});
    write_values<double>(scale, {factor});
  });
}

}  // namespace rlhf::cpu
