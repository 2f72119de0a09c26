// ppo_loss_from_logits on CUDA, four launches: counts of the masks and 1 / denominators; the rows,
// one block each; sums over kBlockItems rows; loss and statistics. A row is read once (2 or 4 bytes
// per element, twice that with the reference's row) and, in the in-place form, written while it is
// in L2; the out-of-place form's backward reads it again. fp32 lanes, fp64 across lanes, warps and
// rows in their order. A target outside the vocabulary gives NaN. Formula:
// csrc/math/ppo_loss_from_logits.h.
#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/ppo_loss_from_logits.h"
#include "cuda/ppo_row_terms.cuh"
#include "cuda/row_kl.cuh"

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

struct ObjectiveShared {
  RowShared row;
  SavedRow saved;
  RowGradient gradient;
};

// The reference's state and the exact KL, for a policy row.
template <typename S>
__device__ double add_reference(const S* x, const S* y, int vocab, SavedRow* saved,
                                RowShared* shared) {
  const RowState ref_state = row_state(y, vocab, saved->inverse_temperature, shared);
  saved->ref_max = ref_state.max;
  saved->ref_log_sum = ref_state.log_sum;
  return row_exact_kl(x, y, vocab, *saved, shared);
}

// Leaves the row's terms in the workspace and its saved state, with the four coefficients, in the
// first thread's return value.
template <typename S, bool kReference>
__device__ SavedRow evaluate_row(const Objective<S>& in, int64_t row, int target, bool is_policy,
                                 bool is_ptx, RowShared* shared) {
  const S* x = in.logits.row(row);
  SavedRow saved;
  saved.inverse_temperature = target < 0 ? NAN : in.temperatures.inverse_of(row);
  const RowState state = row_state(x, in.logits.vocab, saved.inverse_temperature, shared);
  saved.max = state.max;
  saved.log_sum = state.log_sum;
  saved.entropy = state.entropy;
  double kl = 0.0;
  if (kReference && is_policy) {
    kl = add_reference(x, in.ref_logits.row(row), in.logits.vocab, &saved, shared);
  }
  if (threadIdx.x != 0) return saved;
  RowTerms terms = {};
  terms.logprob =
      target < 0 ? NAN : logprob_of(logit_at(x, target), state, saved.inverse_temperature);
  terms.entropy = state.entropy;
  terms.kl = kl;
  math::RowCoefficients k;
  if (is_policy) k = policy_terms(in.tokens, in.space.means(), row, kReference, &terms);
  if (is_ptx) k.add_logprob(-in.tokens.ptx_coef * in.space.means().ptx);
  saved.a = k.a;
  saved.b = k.b;
  saved.c = k.c;
  saved.d = k.d;
  *in.space.row(row) = terms;
  return saved;
}

// `out` is the logits' own memory in the in-place form, else not used.
template <typename S, bool kInPlace, bool kReference>
__global__ void __launch_bounds__(kMaxRowThreads, 2)
    objective_rows_kernel(Objective<S> in, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const bool is_policy = in.tokens.is_policy(row), is_ptx = in.tokens.is_ptx(row);
  const int vocab = in.logits.vocab;
  if (!is_policy && !is_ptx) {
    if (threadIdx.x == 0) in.saved[row] = SavedRow();
    if (kInPlace) zero_row(vocab, out.row(row));
    return;
  }
  ObjectiveShared& shared = block_shared<ObjectiveShared>();
  const int target = in.targets.of(row, vocab);
  const SavedRow saved =
      evaluate_row<S, kReference>(in, row, target, is_policy, is_ptx, &shared.row);
  const S* x = in.logits.row(row);
  const S* y = kReference ? in.ref_logits.row(row) : nullptr;
  if (threadIdx.x == 0) in.saved[row] = saved;
  if (!kInPlace) return;
  if (threadIdx.x == 0) shared.gradient = make_gradient<S>(x, y, target, saved, 1.0);
  __syncthreads();
  write_gradient<S, kReference>(x, y, vocab, shared.gradient, out.row(row));
}

template <typename S, bool kReference>
__global__ void __launch_bounds__(kMaxRowThreads, 2)
    objective_backward_kernel(Rows<const S> logits, Rows<const S> ref_logits, Targets targets,
                              const SavedRow* saved, const float* upstream, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const S* x = logits.row(row);
  const S* y = kReference ? ref_logits.row(row) : nullptr;
  RowGradient& shared = block_shared<RowGradient>();
  if (threadIdx.x == 0) {
    shared = make_gradient<S>(x, y, targets.of(row, logits.vocab), saved[row], *upstream);
  }
  __syncthreads();
  write_gradient<S, kReference>(x, y, logits.vocab, shared, out.row(row));
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

template <typename S>
void launch_rows(const PolicyObjective& o, const Objective<S>& in, bool inplace) {
  const Rows<S> out(o.logits);
  const auto start = [&](auto kernel) {
    launch(kOp, Target(o.logits), kernel, o.logits.shape[0],
           row_threads(kOp, o.logits.shape[1], sizeof(S)), sizeof(ObjectiveShared), in, out);
  };
  if (inplace) {
    o.ref_logits ? start(objective_rows_kernel<S, true, true>)
                 : start(objective_rows_kernel<S, true, false>);
  } else {
    o.ref_logits ? start(objective_rows_kernel<S, false, true>)
                 : start(objective_rows_kernel<S, false, false>);
  }
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
  launch(kOp, target, objective_means_kernel, 1, kMeansThreads, sizeof(CountShared), tokens,
         o.denominator, o.ptx_denominator, space);
  dispatch_storage(kOp, "logits", o.logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
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
             row_threads(op, logits.shape[1], sizeof(S)), sizeof(RowGradient),
             Rows<const S>(logits), Rows<const S>(ref_logits ? *ref_logits : logits),
             Targets(targets), rows.as<const SavedRow>(), upstream.as<const float>(),
             Rows<S>(grad_logits));
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
           row_threads(op, grad.shape[1], sizeof(S)), 0, Rows<S>(grad), rows.as<const SavedRow>(),
           upstream.as<const float>());
  });
}

}  // namespace rlhf::cuda
