// ranking_loss on CUDA, two launches: a warp per prompt, then the sums to loss and statistics.
// Arithmetic and sums are fp64. A lane holds an answer and visits all others in order, so each pair
// is computed twice and no gradient needs an atomic; its loss is counted where i < j. Up to 1024
// answers one launch of one block, with pairs in fp32 (ranking_block.cuh). Formula:
// csrc/math/ranking_loss.h.
#include "cuda/ranking_block.cuh"
#include "cuda/ranking_loss.h"
#include "cuda/token_blocks.cuh"
#include "math/ranking_loss.h"

namespace rlhf::cuda {
namespace {

static_assert(kBlockPrompts * kWarpSize == kReduceThreads, "a warp per prompt");

// Offsets and ranks that the CPU refuses are counted, and make every result NaN.
struct CheckedSum {
  math::RankingSum sum;
  double refused = 0;

  RLHF_HD void merge(const CheckedSum& other) {
    sum.merge(other.sum);
    refused += other.refused;
  }
};

struct Range {
  int64_t begin;
  int64_t end;
};

__device__ int64_t clamp_answer(int64_t index, int64_t answers) {
  return index < 0 ? 0 : (index > answers ? answers : index);
}

// The answers of a prompt; of one with wrong offsets, all that it could mean, and `valid` false.
__device__ Range prompt_answers(const Prompts& prompts, int64_t prompt, bool& valid) {
  const bool first = prompt == 0, last = prompt == prompts.count - 1;
  const int64_t begin = prompts.offsets[prompt], end = prompts.offsets[prompt + 1];
  valid = begin >= 0 && begin <= end && end <= prompts.answers && (!first || begin == 0) &&
          (!last || end == prompts.answers);
  if (valid) return {begin, end};
  const int64_t low = clamp_answer(begin < end ? begin : end, prompts.answers);
  const int64_t high = clamp_answer(begin < end ? end : begin, prompts.answers);
  return {first ? 0 : low, last ? prompts.answers : high};
}

__device__ bool ranks_valid(const Prompts& prompts, const Range& range) {
  bool mine = true;
  for (int64_t i = range.begin + lane_index(); i < range.end; i += kWarpSize) {
    mine = mine && prompts.ranks[i] >= 1;
  }
  return __all_sync(kFullWarp, mine);
}

// The pairs that have a loss, the same in every lane.
__device__ double count_pairs(const Prompts& prompts, const Range& range) {
  double mine = 0;
  for (int64_t i = range.begin + lane_index(); i < range.end; i += kWarpSize) {
    const int64_t rank = prompts.ranks[i];
    for (int64_t j = i + 1; j < range.end; ++j) {
      mine += prompts.count_ties || prompts.ranks[j] != rank ? 1.0 : 0.0;
    }
  }
  return warp_sum(mine);
}

// Answer i against all others: adds its pairs with j > i to `sum`, and returns the sum of the
// derivatives for i, before the division by the number of pairs.
__device__ double visit_answer(const Prompts& prompts, const Range& range, int64_t i,
                               math::RankingSum& sum) {
  const double score = prompts.scores[i];
  const int64_t rank = prompts.ranks[i];
  double grad = 0;
  for (int64_t j = range.begin; j < range.end; ++j) {
    if (j == i) continue;
    const bool tie = prompts.ranks[j] == rank;
    const bool better = tie ? i < j : rank < prompts.ranks[j];
    const double gap = score - prompts.scores[j];
    const double difference = better ? gap : -gap;
    if (i < j) sum.add_pair(tie, difference);
    if (tie && !prompts.count_ties) continue;
    const auto pair = math::answer_pair(tie, difference);
    grad += better ? pair.ddifference : -pair.ddifference;
    if (i < j) sum.loss += pair.loss;
  }
  return grad;
}

__device__ CheckedSum visit_prompt(const Prompts& prompts, int64_t prompt, float* grad) {
  CheckedSum mine;
  bool valid;
  const Range range = prompt_answers(prompts, prompt, valid);
  if (!valid || !ranks_valid(prompts, range)) {
    for (int64_t i = range.begin + lane_index(); i < range.end; i += kWarpSize) grad[i] = NAN;
    mine.refused = 1;
    return mine;
  }
  const double pairs = count_pairs(prompts, range);
  const double share = pairs > 0 ? 1.0 / pairs : 0.0;
  for (int64_t i = range.begin + lane_index(); i < range.end; i += kWarpSize) {
    grad[i] = static_cast<float>(visit_answer(prompts, range, i, mine.sum) * share);
  }
  mine.sum.loss *= share;
  if (lane_index() == 0) (pairs > 0 ? mine.sum.prompts : mine.sum.skipped) = 1;
  return mine;
}

__global__ void ranking_loss_prompts_kernel(Prompts prompts, float* grad, double* workspace) {
  const int64_t prompt = static_cast<int64_t>(blockIdx.x) * kBlockPrompts + warp_index();
  CheckedSum mine;
  if (prompt < prompts.count) mine = visit_prompt(prompts, prompt, grad);
  leave_partial(mine, workspace);
}

__global__ void ranking_loss_finish_kernel(double* workspace, int64_t blocks, Prompts prompts,
                                           const double* denominator, RankingResults out) {
  const CheckedSum all =
      merge_partials<CheckedSum>(workspace, blocks, block_shared<ThreadSums<CheckedSum>>().sums);
  if (threadIdx.x != 0) return;
  // Without a prompt nobody has looked at the offsets yet.
  const bool covered = prompts.offsets[0] == 0 && prompts.offsets[prompts.count] == prompts.answers;
  const bool valid = covered && all.refused == 0;
  write_results(all.sum, valid ? mean_factor(denominator, all.sum.prompts) : NAN, out);
}

}  // namespace

void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, bool count_ties, const double* denominator,
                  const TensorView& loss, const TensorView& stats, const TensorView& score_grad,
                  const TensorView& scale, double* workspace) {
  const char* op = "ranking_loss";
  const Target target(scores);
  const Prompts prompts = {scores.as<const float>(),          ranks.as<const int64_t>(),
                           group_offsets.as<const int64_t>(), scores.shape[0],
                           group_offsets.shape[0] - 1,        count_ties};
  const RankingResults out = {loss.as<float>(), stats.as<float>(), scale.as<double>()};
  if (launch_ranking_block(op, target, prompts, denominator, score_grad.as<float>(), out)) return;
  const int64_t blocks = prompt_blocks(prompts.count);
  const size_t shared = sizeof(ThreadSums<CheckedSum>);
  launch(op, target, ranking_loss_prompts_kernel, blocks, kReduceThreads, shared, prompts,
         score_grad.as<float>(), workspace);
  launch(op, target, ranking_loss_finish_kernel, 1, kReduceThreads, shared, workspace, blocks,
         prompts, denominator, out);
}

}  // namespace rlhf::cuda
