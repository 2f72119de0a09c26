// What a row adds to the policy objective, and the sums over rows: everything of
// ppo_loss_from_logits that does not touch logits. Formula: csrc/math/ppo_loss_from_logits.h.
#pragma once

#include "cuda/row.cuh"
#include "cuda/token_blocks.cuh"
#include "math/ppo_loss_from_logits.h"
#include "math/ppo_sum.h"
#include "math/token_kl.h"

namespace rlhf::cuda {
namespace {

using math::SavedRow;

constexpr int kMeansThreads = 1024;

// What the policy's loss reads of a row.
struct RowInputs {
  float old_logprob;
  float advantage;
  float ref_logprob;  // 0 without a reference
  bool is_policy;
  bool is_ptx;
};

struct RowTokens {
  const float* old_logprobs;
  const float* advantages;
  const float* ref_logprobs;  // may be null
  const bool* mask;
  const bool* ptx_mask;  // may be null
  float low, high;       // 1 -+ cliprange
  double entropy_coef, kl_coef, ptx_coef;
  math::KlEstimator estimator;

  __device__ bool is_policy(int64_t row) const { return mask[row]; }
  __device__ bool is_ptx(int64_t row) const { return ptx_mask != nullptr && ptx_mask[row]; }
  __device__ bool counts(int64_t row) const { return is_policy(row) || is_ptx(row); }
  // A row that is no policy row may hold anything there.
  __device__ RowInputs inputs_of(int64_t row) const {
    RowInputs inputs = {};
    inputs.is_policy = is_policy(row);
    inputs.is_ptx = is_ptx(row);
    if (!inputs.is_policy) return inputs;
    inputs.old_logprob = old_logprobs[row];
    inputs.advantage = advantages[row];
    if (ref_logprobs != nullptr) inputs.ref_logprob = ref_logprobs[row];
    return inputs;
  }
};

struct RowTerms {
  math::PpoToken<float> token;
  float k3;
  double logprob;
  double entropy;
  double kl;
};
static_assert(sizeof(RowTerms) <= kRowDoubles * sizeof(double), "raise kRowDoubles");

// 1 / denominator of the policy rows and of the ptx rows; NaN where the CPU refuses.
struct Means {
  double policy;
  double ptx;
};

// The workspace: partial sums, the means, then the terms of every row.
struct ObjectiveSpace {
  double* base;
  int64_t rows;

  __device__ Means& means() const {
    return *reinterpret_cast<Means*>(base + kPartialDoubles * partial_blocks(rows));
  }
  __device__ RowTerms* row(int64_t index) const {
    return reinterpret_cast<RowTerms*>(base + partials_size(rows) + index * kRowDoubles);
  }
};

struct ObjectiveSum {
  math::PpoSum ppo;
  double entropy = 0;
  double kl = 0;
  double ptx = 0;
  double ptx_entropy = 0;

  __device__ void merge(const ObjectiveSum& other) {
    ppo.merge(other.ppo);
    entropy += other.entropy;
    kl += other.kl;
    ptx += other.ptx;
    ptx_entropy += other.ptx_entropy;
  }
};

struct RowCounts {
  double policy = 0;
  double ptx = 0;

  __device__ void merge(const RowCounts& other) {
    policy += other.policy;
    ptx += other.ptx;
  }
};
struct CountShared {
  RowCounts counts[kMeansThreads];
};

__global__ void objective_means_kernel(RowTokens tokens, const double* denominator,
                                       const double* ptx_denominator, ObjectiveSpace space) {
  RowCounts mine;
  for (int64_t row = threadIdx.x; row < space.rows; row += blockDim.x) {
    mine.policy += tokens.is_policy(row) ? 1.0 : 0.0;
    mine.ptx += tokens.is_ptx(row) ? 1.0 : 0.0;
  }
  const RowCounts counts = block_merge(mine, block_shared<CountShared>().counts);
  if (threadIdx.x == 0) {
    space.means() = {mean_factor(denominator, counts.policy),
                     mean_factor(ptx_denominator, counts.ptx)};
  }
}

// By one thread: fills the policy part of `terms`, whose log-prob, entropy and exact KL are known.
__device__ inline math::RowCoefficients policy_terms(const RowTokens& in, const RowInputs& row,
                                                     const Means& means, bool exact,
                                                     RowTerms* terms) {
  const float logprob = static_cast<float>(terms->logprob), old = row.old_logprob;
  terms->token = math::ppo_token<float>(logprob, old, row.advantage, in.low, in.high);
  terms->k3 = math::token_kl<float>(math::KlEstimator::kK3, old, logprob);
  math::RowCoefficients k;
  k.add_logprob(means.policy * terms->token.dlogprob);
  k.add_entropy(-in.entropy_coef * means.policy, terms->entropy);
  const double weight = in.kl_coef * means.policy;
  if (exact) {
    k.add_exact_kl(weight, terms->kl);
  } else if (in.ref_logprobs != nullptr) {
    const float ref = row.ref_logprob;
    terms->kl = math::token_kl<float>(in.estimator, logprob, ref);
    k.add_logprob(weight * math::token_kl_gradient<float>(in.estimator, logprob, ref));
  }
  return k;
}

// By one thread, once a row's state is known: its terms, and what its gradient needs. `logit` is
// the target's, NaN for one outside the vocabulary; `kl` the exact KL, if `exact`.
__device__ inline SavedRow finish_row(const RowTokens& in, const RowInputs& inputs,
                                      const Means& means, const RowState& state, double logit,
                                      SavedRow saved, bool exact, double kl, RowTerms* terms) {
  saved.max = state.max;
  saved.log_sum = state.log_sum;
  saved.entropy = state.entropy;
  *terms = {};
  terms->logprob = logprob_of(logit, state, saved.inverse_temperature);
  terms->entropy = state.entropy;
  terms->kl = kl;
  math::RowCoefficients k;
  if (inputs.is_policy) k = policy_terms(in, inputs, means, exact, terms);
  if (inputs.is_ptx) k.add_logprob(-in.ptx_coef * means.ptx);
  saved.a = k.a;
  saved.b = k.b;
  saved.c = k.c;
  saved.d = k.d;
  return saved;
}

__global__ void objective_sums_kernel(RowTokens tokens, ObjectiveSpace space) {
  ObjectiveSum mine;
  for_tokens(blockIdx.x, space.rows, [&](int64_t row) {
    const RowTerms* term = space.row(row);
    if (tokens.is_policy(row)) {
      mine.ppo.add(term->token, term->k3);
      mine.entropy += term->entropy;
      mine.kl += term->kl;
    }
    if (tokens.is_ptx(row)) {
      mine.ptx -= term->logprob;
      mine.ptx_entropy += term->entropy;
    }
  });
  ObjectiveSum merged;  // merge() turns the ratios that were added into moments
  merged.merge(mine);
  leave_partial(merged, space.base);
}

__global__ void objective_finish_kernel(RowTokens in, ObjectiveSpace space, int64_t blocks,
                                        float* loss, float* stats) {
  const ObjectiveSum sum = merge_partials<ObjectiveSum>(
      space.base, blocks, block_shared<ThreadSums<ObjectiveSum>>().sums);
  if (threadIdx.x != 0) return;
  const Means means = space.means();
  const math::PpoSum& ppo = sum.ppo;
  double total = ppo.loss * means.policy;
  if (in.entropy_coef != 0) total -= in.entropy_coef * means.policy * sum.entropy;
  if (in.kl_coef != 0) total += in.kl_coef * means.policy * sum.kl;
  if (in.ptx_coef != 0) total += in.ptx_coef * means.ptx * sum.ptx;
  *loss = static_cast<float>(total);
  const double values[] = {ppo.loss * means.policy,
                           0.5 * ppo.logratio_squared * means.policy,
                           ppo.k3 * means.policy,
                           ppo.clipped * means.policy,
                           ppo.ratio.sum() * means.policy,
                           ppo.ratio.m2 * means.policy,
                           unless_nan(ppo.ratio_max, means.policy),
                           unless_nan(ppo.ratio_error, means.policy),
                           sum.entropy * means.policy,
                           sum.kl * means.policy,
                           sum.ptx * means.ptx,
                           sum.ptx_entropy * means.ptx};
  for (int i = 0; i < 12; ++i) stats[i] = static_cast<float>(values[i]);
}

}  // namespace
}  // namespace rlhf::cuda
