// gather_logprobs on CUDA, one block per row. Forward: one read of the logits (2 or 4 bytes per
// element); backward: one read and one write. fp32 lanes, fp64 across lanes and warps in their
// order. A target outside the vocabulary gives NaN for its row. Formula:
// csrc/math/gather_logprobs.h.
#include "cuda/dispatch.cuh"
#include "cuda/gather_logprobs.h"
#include "cuda/launch.cuh"
#include "cuda/row_gradient.cuh"
#include "math/gather_logprobs.h"

namespace rlhf::cuda {
namespace {

using math::SavedRow;

struct GatherOutputs {
  float* logprobs;
  float* entropy;
  float* logsumexp;
  SavedRow* saved;
};

// By one thread.
__device__ inline void write_gathered(const GatherOutputs& out, int64_t row, double x,
                                      double inverse, const RowState& state) {
  SavedRow saved;
  saved.max = state.max;
  saved.log_sum = state.log_sum;
  saved.entropy = state.entropy;
  saved.inverse_temperature = inverse;
  out.saved[row] = saved;
  const bool known = inverse == inverse;
  const double entropy = known ? state.entropy : NAN;
  out.logprobs[row] = static_cast<float>(logprob_of(x, state, inverse));
  out.entropy[row] = static_cast<float>(entropy);
  out.logsumexp[row] = static_cast<float>(state.max * inverse + state.log_sum);
}

__device__ inline void write_nothing(const GatherOutputs& out, int64_t row) {
  out.saved[row] = SavedRow();
  out.logprobs[row] = out.entropy[row] = out.logsumexp[row] = 0.0f;
}

template <typename S>
__global__ void __launch_bounds__(kMaxRowThreads, 2)
    gather_logprobs_kernel(Rows<const S> logits, Targets targets, const bool* mask,
                           Temperatures temperatures, GatherOutputs out) {
  const int64_t row = blockIdx.x;
  if (!row_counts(mask, row)) {
    if (threadIdx.x == 0) write_nothing(out, row);
    return;
  }
  RowShared& shared = block_shared<RowShared>();
  const RowState state =
      row_state(logits.row(row), logits.vocab, temperatures.inverse_of(row), &shared);
  if (threadIdx.x != 0) return;
  const double inverse = shared.inverse_temperature;
  const int target = targets.of(row, logits.vocab);
  const bool known = target >= 0;
  write_gathered(out, row, known ? logit_at(logits.row(row), target) : NAN, known ? inverse : NAN,
                 state);
}

struct GatherUpstream {
  const float* logprobs;
  const float* entropy;
  const float* logsumexp;
};

template <typename S>
__global__ void __launch_bounds__(kMaxRowThreads, 2)
    gather_logprobs_backward_kernel(GatherUpstream grads, Rows<const S> logits, Targets targets,
                                    const SavedRow* saved, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const S* x = logits.row(row);
  RowGradient& shared = block_shared<RowGradient>();
  if (threadIdx.x == 0) {
    SavedRow scaled = saved[row];
    const math::LogprobCoefficients k = math::logprob_coefficients(
        scaled.entropy, grads.logprobs[row], grads.entropy[row], grads.logsumexp[row]);
    scaled.a = k.a;
    scaled.b = k.b;
    scaled.d = k.d;
    shared = make_gradient<S>(x, nullptr, targets.of(row, logits.vocab), scaled, 1.0);
  }
  __syncthreads();
  write_gradient<S, false>(x, nullptr, logits.vocab, shared, out);
}

}  // namespace

void gather_logprobs(const GatherInputs& inputs, const TensorView& logprobs,
                     const TensorView& entropy, const TensorView& logsumexp,
                     const TensorView& rows) {
  const char* op = "gather_logprobs";
  const TensorView& logits = inputs.logits;
  dispatch_storage(op, "logits", logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const GatherOutputs out = {logprobs.as<float>(), entropy.as<float>(), logsumexp.as<float>(),
                               rows.as<SavedRow>()};
    launch(op, Target(logits), gather_logprobs_kernel<S>, logits.shape[0],
           row_threads<S>(op, logits.shape[0], logits.shape[1]), sizeof(RowShared),
           Rows<const S>(logits), Targets(inputs.targets), mask_bits(inputs.mask),
           Temperatures(inputs.temperatures, inputs.temperature), out);
  });
}

void gather_logprobs_backward(const GatherGradients& grads, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits) {
  const char* op = "gather_logprobs_backward";
  dispatch_storage(op, "logits", logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const GatherUpstream upstream = {grads.logprobs.as<const float>(),
                                     grads.entropy.as<const float>(),
                                     grads.logsumexp.as<const float>()};
    launch(op, Target(logits), gather_logprobs_backward_kernel<S>, logits.shape[0],
           row_threads<S>(op, logits.shape[0], logits.shape[1]), sizeof(RowGradient), upstream,
           Rows<const S>(logits), Targets(targets), rows.as<const SavedRow>(),
           Rows<S>(grad_logits));
  });
}

}  // namespace rlhf::cuda
