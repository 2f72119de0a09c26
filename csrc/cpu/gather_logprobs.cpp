// gather_logprobs on the CPU. Forward: one read of the logits, fp32 lanes and fp64 across blocks;
// backward: one read and one write. Formula: csrc/math/gather_logprobs.h.
#include "cpu/gather_logprobs.h"

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "dispatch.h"
#include "math/gather_logprobs.h"

namespace rlhf::cpu {
namespace {

template <typename C>
void forward(const GatherInputs& inputs, C* logprobs, C* entropy, C* logsumexp, SavedRow* saved) {
  const RowFunctions& functions = row_functions_for(inputs.logits.dtype);
  const Rows logits(inputs.logits);
  const Targets targets(inputs.targets);
  const RowMask mask(inputs.mask);
  const Temperatures temperatures(inputs.temperatures, inputs.temperature);
  parallel_rows(logits.count, logits.vocab, [&](int64_t row) {
    saved[row] = {};
    logprobs[row] = entropy[row] = logsumexp[row] = C(0);
    if (!mask[row]) return;
    const RowArgs args = {logits.row(row), nullptr, logits.vocab, temperatures.inverse_of(row)};
    RowState state;
    functions.state(args, &state);
    saved[row].max = state.max;
    saved[row].log_sum = state.log_sum;
    saved[row].entropy = state.entropy;
    saved[row].inverse_temperature = args.inverse_temperature;
    logprobs[row] = static_cast<C>(logprob_of(functions, args, state, targets[row]));
    entropy[row] = static_cast<C>(state.entropy);
    logsumexp[row] = static_cast<C>(state.max * args.inverse_temperature + state.log_sum);
  });
}

template <typename C>
void backward(const GatherGradients& grads, const Rows& logits, const Targets& targets,
              const SavedRow* saved, const RowFunctions& functions, const Rows& out) {
  parallel_rows(logits.count, logits.vocab, [&](int64_t row) {
    const math::LogprobCoefficients k =
        math::logprob_coefficients(saved[row].entropy, grads.logprobs.as<C>()[row],
                                   grads.entropy.as<C>()[row], grads.logsumexp.as<C>()[row]);
    SavedRow scaled = saved[row];
    scaled.a = k.a;
    scaled.b = k.b;
    scaled.d = k.d;
    write_gradient(functions, logits, nullptr, row, targets[row], scaled, 1.0, out);
  });
}

}  // namespace

void gather_logprobs(const GatherInputs& inputs, const TensorView& logprobs,
                     const TensorView& entropy, const TensorView& logsumexp,
                     const TensorView& rows) {
  SavedRow* saved = rows.as<SavedRow>();
  if (inputs.logits.dtype == DType::kFloat64) {
    forward(inputs, logprobs.as<double>(), entropy.as<double>(), logsumexp.as<double>(), saved);
  } else {
    forward(inputs, logprobs.as<float>(), entropy.as<float>(), logsumexp.as<float>(), saved);
  }
}

void gather_logprobs_backward(const GatherGradients& grads, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits) {
  const RowFunctions& functions = row_functions_for(logits.dtype);
  const Rows in(logits), out(grad_logits);
  const Targets ids(targets);
  const SavedRow* saved = rows.as<SavedRow>();
  if (logits.dtype == DType::kFloat64) {
    backward<double>(grads, in, ids, saved, functions, out);
  } else {
    backward<float>(grads, in, ids, saved, functions, out);
  }
}

}  // namespace rlhf::cpu
