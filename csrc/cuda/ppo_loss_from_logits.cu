// ppo_loss_from_logits on CUDA, four launches: counts of the masks and 1 / denominators; the rows,
// one block each; sums over kBlockItems rows; loss and statistics. A row is read once (2 or 4 bytes
// per element, twice that with the reference's row) and, in the in-place form, written while it is
// in shared memory (objective_resident.cuh) or in L2; with a reference, and in the out-of-place
// form's backward, it is read again. fp32 lanes, fp64 across lanes, shares and rows in their order.
// A target outside the vocabulary gives NaN. Formula: csrc/math/ppo_loss_from_logits.h.
#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/objective_resident.cuh"
#include "cuda/ppo_loss_from_logits.h"
#include "cuda/ppo_row_terms.cuh"
#include "cuda/row_pair.cuh"

namespace rlhf::cuda {
namespace {

constexpr const char* kOp = "ppo_loss_from_logits";

template <typename S>
struct Objective {
  Rows<const S> logits;
  Rows<const S> ref_logits;  // read only with kReference
  Targets targets;
  Temperatures temperatures;
  RowTokens tokens;
  SavedRow* saved;
  ObjectiveSpace space;
};

// The most threads of objective_rows_kernel: fewer where a thread needs more registers.
template <typename S>
constexpr int rows_threads(bool reference) {
  return reference || sizeof(S) == 4 ? kMaxPairThreads : kMaxRowThreads;
}

struct ObjectiveShared {
  RowShared row;
  PairShared pair;
  RowState state;  // of the row, beside a reference
  RowGradient gradient;
};

// Leaves the row's terms in the workspace, its saved state with the four coefficients, and in the
// in-place form what its gradient needs.
template <typename S, bool kInPlace, bool kReference>
__device__ void evaluate_row(const Objective<S>& in, ObjectiveShared* shared) {
  const int vocab = in.logits.vocab;
  int64_t row = row_of_block();
  const RowState state =
      row_state(in.logits.row(row), vocab, in.temperatures.inverse_of(row), &shared->row);
  const bool referred = kReference && in.tokens.is_policy(row);
  row = row_of_block();
  if (referred) {
    // Read again by the first thread, below: another state may take its place meanwhile.
    if (threadIdx.x == 0) shared->state = state;
    pair_kl(in.logits.row(row), in.ref_logits.row(row), vocab, in.temperatures.inverse_of(row),
            &shared->pair, &shared->row);
  }
  if (threadIdx.x != 0) return;
  row = row_of_block();
  SavedRow saved;
  saved.inverse_temperature = shared->row.inverse_temperature;
  double kl = 0.0;
  if (referred) {
    // log q - log p is exact to the last bits; so it must be the row's own log p that it is added
    // to.
    const SavedRow& pair = shared->pair.saved;
    saved.ref_max = pair.ref_max;
    saved.ref_log_sum = pair.ref_log_sum + (shared->state.log_sum - pair.log_sum);
    kl = shared->pair.kl;
  }
  const int target = in.targets.of(row, vocab);
  const S* x = in.logits.row(row);
  const double logit = target < 0 ? NAN : logit_at(x, target);
  if (target < 0) saved.inverse_temperature = NAN;
  saved = finish_row(in.tokens, in.tokens.inputs_of(row), in.space.means(),
                     referred ? shared->state : shared->row.state, logit, saved, kReference, kl,
                     in.space.row(row));
  in.saved[row] = saved;
  if (kInPlace) shared->gradient = make_gradient<S>(x, nullptr, target, saved, 1.0);
}

// `out` is the logits' own memory in the in-place form, else not used.
template <typename S, bool kInPlace, bool kReference>
__global__ void __launch_bounds__(rows_threads<S>(kReference),
                                  kReference || sizeof(S) == 4 ? kPairBlocks : 2)
    objective_rows_kernel(Objective<S> in, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const int vocab = in.logits.vocab;
  if (!in.tokens.counts(row)) {
    if (threadIdx.x == 0) in.saved[row] = SavedRow();
    if (kInPlace) zero_row(vocab, out.row(row));
    return;
  }
  ObjectiveShared& shared = block_shared<ObjectiveShared>();
  evaluate_row<S, kInPlace, kReference>(in, &shared);
  if (!kInPlace) return;
  __syncthreads();
  write_gradient<S, false>(in.logits.row(row), nullptr, vocab, shared.gradient, out);
}

// Without `upstream` it is 1.
template <typename S, bool kReference>
__global__ void __launch_bounds__(kReference ? kMaxPairThreads : kMaxRowThreads,
                                  kReference ? kPairBlocks : 2)
    objective_backward_kernel(Rows<const S> logits, Rows<const S> ref_logits, Targets targets,
                              const SavedRow* saved, const float* upstream, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const S* x = logits.row(row);
  const S* y = kReference ? ref_logits.row(row) : nullptr;
  RowGradient& shared = block_shared<RowGradient>();
  if (threadIdx.x == 0) {
    shared = make_gradient<S>(x, y, targets.of(row, logits.vocab), saved[row],
                              upstream == nullptr ? 1.0 : *upstream);
  }
  __syncthreads();
  write_gradient<S, kReference>(x, y, logits.vocab, shared, out);
}

template <typename S>
__global__ void __launch_bounds__(kMaxRowThreads, 2)
    scale_kernel(Rows<S> grad, const SavedRow* saved, const float* upstream) {
  const int64_t row = blockIdx.x;
  const float factor = *upstream;
  if (factor == 1.0f || saved[row].inverse_temperature == 0.0) return;
  S* out = grad.row(row);
  const AlignedPart<S> part(out, grad.vocab);
  part.for_ends(grad.vocab, [&](int i) { from_float(to_float(out[i]) * factor, out + i); });
  uint4* vectors = reinterpret_cast<uint4*>(out + part.head);
  const RowReader<S> reader(out + part.head, part.vectors * kPack<S>);
  for (int v = static_cast<int>(threadIdx.x); v < part.vectors; v += static_cast<int>(blockDim.x)) {
    uint32_t words[kWords];
    reader.aligned(v, words);
    RLHF_UNROLL
    for (int i = 0; i < kWords; ++i) {
      words[i] =
          Packed<S>::pack(Packed<S>::low(words[i]) * factor, Packed<S>::high(words[i]) * factor);
    }
    store_words(words, vectors + v);
  }
}

// Without a reference. Large blocks, so that few rows are under way and L2 still holds them for
// the second pass.
template <typename S>
void launch_in_place(const PolicyObjective& o, const Objective<S>& in) {
  const Target target(o.logits);
  const Rows<S> out(o.logits);
  if (use_resident<S>(kOp, target, out.vocab)) {
    return launch_resident(
        kOp, target,
        ResidentObjective<S>{out, in.targets, in.temperatures, in.tokens, in.saved, in.space});
  }
  const int threads = std::min(rows_threads<S>(false), row_shares<S>(out.vocab) * kWarpSize);
  launch(kOp, target, objective_rows_kernel<S, true, false>, o.logits.shape[0], threads,
         sizeof(ObjectiveShared), in, out);
}

// The rows, and in the in-place form the gradient: with a reference by a launch of its own, since
// one kernel for all has too few registers to keep the memory busy.
template <typename S>
void launch_rows(const PolicyObjective& o, const Objective<S>& in, bool inplace) {
  const Rows<S> out(o.logits);
  const int64_t rows = o.logits.shape[0];
  const int threads =
      row_threads<S>(kOp, rows, out.vocab, rows_threads<S>(o.ref_logits.has_value()));
  const auto start = [&](auto kernel) {
    launch(kOp, Target(o.logits), kernel, rows, threads, sizeof(ObjectiveShared), in, out);
  };
  if (!o.ref_logits) {
    inplace ? launch_in_place(o, in) : start(objective_rows_kernel<S, false, false>);
    return;
  }
  start(objective_rows_kernel<S, false, true>);
  if (!inplace) return;
  launch(kOp, Target(o.logits), objective_backward_kernel<S, true>, rows, threads,
         sizeof(RowGradient), in.logits, in.ref_logits, in.targets,
         static_cast<const SavedRow*>(in.saved), static_cast<const float*>(nullptr), out);
}

RowTokens tokens_of(const PolicyObjective& o) {
  RowTokens tokens = {};
  tokens.old_logprobs = o.old_logprobs.as<const float>();
  tokens.advantages = o.advantages.as<const float>();
  tokens.ref_logprobs = o.ref_logprobs ? o.ref_logprobs->as<const float>() : nullptr;
  tokens.mask = mask_bits(o.mask);
  tokens.ptx_mask = mask_bits(o.ptx_mask);
  tokens.low = static_cast<float>(1.0 - o.cliprange);
  tokens.high = static_cast<float>(1.0 + o.cliprange);
  tokens.entropy_coef = o.entropy_coef;
  tokens.kl_coef = o.kl_coef;
  tokens.ptx_coef = o.ptx_coef;
  tokens.estimator = o.estimator;
  return tokens;
}

}  // namespace

void ppo_loss_from_logits(const PolicyObjective& o, bool inplace, const TensorView& loss,
                          const TensorView& stats, const TensorView& rows, double* workspace) {
  const Target target(o.logits);
  const int64_t count = o.logits.shape[0], blocks = partial_blocks(count);
  const RowTokens tokens = tokens_of(o);
  const ObjectiveSpace space = {workspace, count};
  dispatch_storage(kOp, "logits", o.logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(kOp, target, objective_means_kernel, 1, kMeansThreads, sizeof(CountShared), tokens,
           o.denominator, o.ptx_denominator, space);
    const Objective<S> in = {Rows<const S>(o.logits),
                             Rows<const S>(o.ref_logits ? *o.ref_logits : o.logits),
                             Targets(o.targets),
                             Temperatures(o.temperatures, o.temperature),
                             tokens,
                             rows.as<SavedRow>(),
                             space};
    launch_rows(o, in, inplace);
  });
  launch(kOp, target, objective_sums_kernel, blocks, kReduceThreads,
         sizeof(ThreadSums<ObjectiveSum>), tokens, space);
  launch(kOp, target, objective_finish_kernel, 1, kReduceThreads, sizeof(ThreadSums<ObjectiveSum>),
         tokens, space, blocks, loss.as<float>(), stats.as<float>());
}

void ppo_loss_from_logits_backward(const TensorView& logits,
                                   const std::optional<TensorView>& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   const TensorView& upstream, const TensorView& grad_logits) {
  const char* op = "ppo_loss_from_logits_backward";
  dispatch_storage(op, "logits", logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const auto start = [&](auto kernel) {
      launch(op, Target(logits), kernel, logits.shape[0],
             row_threads<S>(op, logits.shape[0], logits.shape[1],
                            ref_logits ? kMaxPairThreads : kMaxRowThreads),
             sizeof(RowGradient), Rows<const S>(logits),
             Rows<const S>(ref_logits ? *ref_logits : logits), Targets(targets),
             rows.as<const SavedRow>(), upstream.as<const float>(), Rows<S>(grad_logits));
    };
    ref_logits ? start(objective_backward_kernel<S, true>)
               : start(objective_backward_kernel<S, false>);
  });
}

void ppo_loss_from_logits_scale(const TensorView& grad, const TensorView& rows,
                                const TensorView& upstream) {
  const char* op = "ppo_loss_from_logits_scale_";
  dispatch_storage(op, "grad", grad.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(op, Target(grad), scale_kernel<S>, grad.shape[0],
           row_threads<S>(op, grad.shape[0], grad.shape[1]), 0, Rows<S>(grad),
           rows.as<const SavedRow>(), upstream.as<const float>());
  });
}

}  // namespace rlhf::cuda
