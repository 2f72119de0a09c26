// ranking_loss of up to 1024 answers to up to 1024 prompts in one launch of one block.
//
// A thread holds an answer. It waits for its loads, all under way at once; searches its prompt
// among the offsets in shared memory; visits the prompt's other answers one after the other, in
// fp32; and takes part in four barriers and one merge. So each pair is computed twice and no
// gradient needs an atomic. Pairs of a prompt are counted by integer atomics, which leave no order.
#pragma once

#include "cuda/block_sums.cuh"
#include "cuda/token_blocks.cuh"
#include "math/ranking_loss.h"

namespace rlhf::cuda {

struct Prompts {
  const float* scores;
  const int64_t* ranks;
  const int64_t* offsets;
  int64_t answers;
  int64_t count;
  bool count_ties;
};

struct RankingResults {
  float* loss;
  float* stats;
  double* scale;
};

__device__ inline void write_results(const math::RankingSum& sum, double factor,
                                     const RankingResults& out) {
  const double per_pair = sum.pairs > 0 ? 1.0 / sum.pairs : 0.0;
  *out.loss = static_cast<float>(sum.loss * factor);
  out.stats[0] = static_cast<float>(unless_nan(sum.right * per_pair, factor));
  out.stats[1] = static_cast<float>(unless_nan(sum.margin * per_pair, factor));
  out.stats[2] = static_cast<float>(unless_nan(sum.pairs, factor));
  out.stats[3] = static_cast<float>(unless_nan(sum.tied, factor));
  out.stats[4] = static_cast<float>(unless_nan(sum.prompts, factor));
  out.stats[5] = static_cast<float>(unless_nan(sum.skipped, factor));
  *out.scale = factor;
}

constexpr int kMostBlockAnswers = 1024;

struct RankingShared {
  float scores[kMostBlockAnswers];
  int64_t ranks[kMostBlockAnswers];
  int64_t offsets[kMostBlockAnswers + 1];
  unsigned pairs[kMostBlockAnswers];  // of each prompt, those with a loss
  unsigned refused;
  BlockSums sums;
};

// The last prompt that begins at or before `answer`, of those whose offsets are in order.
__device__ inline int prompt_of(const RankingShared& shared, int prompts, int answer) {
  int low = 0, high = prompts;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (shared.offsets[middle] <= answer ? low : high) = middle;
  }
  return low;
}

// What an answer adds: pairs are counted with the one that comes first.
struct AnswerSums {
  float grad = 0;
  float loss = 0;
  double margin = 0;
  int pairs = 0;  // of different rank
  int tied = 0;
  int right = 0;  // in halves
};

__device__ inline AnswerSums visit_others(const RankingShared& shared, int begin, int end, int i,
                                          bool count_ties) {
  AnswerSums mine;
  const float score = shared.scores[i];
  const int64_t rank = shared.ranks[i];
  for (int j = begin; j < end; ++j) {
    const float other = shared.scores[j];
    const bool tie = shared.ranks[j] == rank, first = i < j;
    const bool better = tie ? first : rank < shared.ranks[j];
    const auto pair = math::quick_pair(tie, better ? score - other : other - score);
    const bool has_loss = j != i && (!tie || count_ties);
    const float slope = better ? pair.ddifference : -pair.ddifference;
    mine.grad += has_loss ? slope : 0.0f;
    mine.loss += has_loss && first ? pair.loss : 0.0f;
    const bool ranked = first && !tie;
    const double gap = static_cast<double>(score) - other, lead = better ? gap : -gap;
    mine.margin += ranked ? lead : 0.0;
    mine.pairs += ranked;
    mine.tied += first && tie;
    mine.right += !ranked ? 0 : (lead > 0 ? 2 : (lead == 0 ? 1 : 0));
  }
  return mine;
}

// Brings everything into shared memory, and says whether the CPU would take it.
__device__ inline bool load_ranking(const Prompts& prompts, RankingShared& shared) {
  const int answers = static_cast<int>(prompts.answers), count = static_cast<int>(prompts.count);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  bool valid = true;
  if (thread == 0) shared.refused = 0;
  if (thread < answers) {
    shared.scores[thread] = prompts.scores[thread];
    shared.ranks[thread] = prompts.ranks[thread];
    valid = shared.ranks[thread] >= 1;
  }
  for (int p = thread; p <= count; p += threads) {
    shared.offsets[p] = prompts.offsets[p];
    if (p < count) shared.pairs[p] = 0;
  }
  __syncthreads();
  if (thread == 0) {
    valid = valid && shared.offsets[0] == 0 && shared.offsets[count] == prompts.answers;
  }
  if (thread < count) valid = valid && shared.offsets[thread] <= shared.offsets[thread + 1];
  if (!valid) shared.refused = 1;
  __syncthreads();
  return shared.refused == 0;
}

__global__ void __launch_bounds__(kMostBlockAnswers, 1)
    ranking_loss_block_kernel(Prompts prompts, const double* denominator, float* grad,
                              RankingResults out) {
  RankingShared& shared = block_shared<RankingShared>();
  const int thread = static_cast<int>(threadIdx.x), count = static_cast<int>(prompts.count);
  // Asked for here, since whoever needs it has waited long enough.
  const double divisor = denominator != nullptr ? *denominator : 0.0;
  const bool mine = thread < prompts.answers;
  if (!load_ranking(prompts, shared)) {
    if (mine) grad[thread] = NAN;
    if (thread == 0) write_results({}, NAN, out);
    return;
  }
  AnswerSums sums;
  int prompt = 0;
  if (mine) {
    prompt = prompt_of(shared, count, thread);
    sums = visit_others(shared, static_cast<int>(shared.offsets[prompt]),
                        static_cast<int>(shared.offsets[prompt + 1]), thread, prompts.count_ties);
    const int with_loss = sums.pairs + (prompts.count_ties ? sums.tied : 0);
    if (with_loss > 0) atomicAdd(&shared.pairs[prompt], static_cast<unsigned>(with_loss));
  }
  __syncthreads();
  double loss = 0;
  if (mine) {
    const unsigned pairs = shared.pairs[prompt];
    const float share = pairs > 0 ? 1.0f / static_cast<float>(pairs) : 0.0f;
    grad[thread] = sums.grad * share;
    loss = pairs > 0 ? static_cast<double>(sums.loss) / pairs : 0.0;
  }
  const bool paired = thread < count && shared.pairs[thread] > 0;
  const bool skipped = thread < count && !paired;
  double values[kBlockSums] = {loss,
                               sums.margin,
                               static_cast<double>(sums.pairs),
                               static_cast<double>(sums.tied),
                               0.5 * sums.right,
                               static_cast<double>(paired),
                               static_cast<double>(skipped),
                               0.0};
  if (!merge_block(values, shared.sums)) return;
  const math::RankingSum sum = {values[0], values[5], values[6], values[2],
                                values[3], values[4], values[1]};
  write_results(sum, mean_factor(denominator != nullptr, divisor, sum.prompts), out);
}

// Starts the kernel where one block can take the answers; else false.
inline bool launch_ranking_block(const char* op, const Target& target, const Prompts& prompts,
                                 const double* denominator, float* grad,
                                 const RankingResults& out) {
  const int64_t most = prompts.answers > prompts.count ? prompts.answers : prompts.count;
  if (most > kMostBlockAnswers || compute_capability(op, target) < 90) return false;
  const int64_t warps = most == 0 ? 1 : blocks_for(most, kWarpSize);
  launch(op, target, ranking_loss_block_kernel, 1, static_cast<int>(warps) * kWarpSize,
         sizeof(RankingShared), prompts, denominator, grad, out);
  return true;
}

}  // namespace rlhf::cuda
