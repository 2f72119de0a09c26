// sample on CUDA: one block per row. Without truncation one read of the row and the warp's share
// of it in which the draw falls again (draw.cuh); with it a read per 8 bits of the threshold and
// one for the kept mass. Histograms are of integers, so that atomics leave no order in them.
// Formula: csrc/math/sample.h.
#include "cuda/dispatch.cuh"
#include "cuda/draw.cuh"
#include "cuda/sample.h"

namespace rlhf::cuda {
namespace {

struct Draws {
  explicit Draws(const SampleInputs& inputs, const SampleOutputs& outputs)
      : row_ids(inputs.row_ids.as<const int64_t>()),
        positions(inputs.positions.as<const int64_t>()),
        temperatures(inputs.temperatures, inputs.temperature),
        seed(inputs.seed),
        top_k(inputs.top_k),
        top_p(inputs.top_p),
        tokens(outputs.tokens.as<int64_t>()),
        logprobs(outputs.logprobs.as<float>()),
        truncated_logprobs(outputs.truncated_logprobs.as<float>()),
        entropy(outputs.entropy.as<float>()) {}

  bool truncates(int vocab) const { return (top_k > 0 && top_k < vocab) || top_p < 1.0; }

  const int64_t* row_ids;
  const int64_t* positions;
  Temperatures temperatures;
  int64_t seed;
  int64_t top_k;
  double top_p;
  int64_t* tokens;
  float* logprobs;
  float* truncated_logprobs;
  float* entropy;
};

struct SampleShared {
  RowShared row;
  SelectShared select;
  DrawShared draw;
  RowState whole;  // before truncation
};

// The lowest kept logit; -inf where all are kept.
template <typename S>
__device__ float find_threshold(const SampledRow<S>& row, const Draws& draws,
                                SelectShared* shared) {
  uint32_t key = 0;
  if (draws.top_k > 0 && draws.top_k < row.vocab) {
    const unsigned long long need = static_cast<unsigned long long>(draws.top_k);
    key = find_key<false>(row, 0, need, 1.0, shared);
  }
  if (draws.top_p < 1.0) key = find_key<true>(row, key, 0, draws.top_p, shared);
  return key == 0 ? -HUGE_VALF : math::from_order_key(key);
}

// By one thread, where the row has no distribution.
__device__ void write_nothing(const Draws& draws, int64_t n) {
  draws.tokens[n] = -1;
  draws.logprobs[n] = draws.truncated_logprobs[n] = draws.entropy[n] = NAN;
}

__device__ bool has_distribution(double total) { return total > 0 && total < HUGE_VAL; }

template <typename S, bool kTruncates>
__global__ void __launch_bounds__(kMaxRowThreads, kTruncates ? 1 : 2)
    sample_kernel(Rows<const S> logits, Draws draws) {
  SampleShared& shared = block_shared<SampleShared>();
  const int64_t n = blockIdx.x;
  const int vocab = logits.vocab;
  const S* x = logits.row(n);
  // They come while the row does.
  prefetch(draws.row_ids + n);
  prefetch(draws.positions + n);
  const double inverse_temperature = draws.temperatures.inverse_of(n);
  const float scale = row_scale(inverse_temperature);
  if (threadIdx.x == 0) shared.row.inverse_temperature = inverse_temperature;
  float threshold = -HUGE_VALF;
  const VectorRange range = range_of_warp(vector_count<S>(vocab), warp_index(), warp_count());
  sum_share(RowReader<S>(x, vocab), range, scale, &shared.row.warps[warp_index()]);
  reread_extreme(x, vocab, range, scale, &shared.row.warps[warp_index()]);
  __syncthreads();
  if (kTruncates) {
    if (!has_distribution(pick_share<S>(shared.row, vocab, 0.0, scale).total)) {
      if (threadIdx.x == 0) write_nothing(draws, n);
      return;
    }
    if (warp_index() == 0) merge_warps(warp_count(), &shared.row);
    __syncthreads();
    if (threadIdx.x == 0) shared.whole = shared.row.state;
    const SampledRow<S> row = {x, vocab, static_cast<float>(shared.row.state.max), scale};
    threshold = find_threshold(row, draws, &shared.select);
    if (threshold > -HUGE_VALF) {
      careful_pass(x, vocab, range.begin, range.end, scale, threshold,
                   &shared.row.warps[warp_index()]);
    }
    __syncthreads();
  }
  const double u = math::uniform_at(draws.seed, draws.row_ids[n], draws.positions[n]);
  const Share share = pick_share<S>(shared.row, vocab, u, scale);
  if (!has_distribution(share.total)) {
    if (threadIdx.x == 0) write_nothing(draws, n);
    return;
  }
  const SampledRow<S> row = {x, vocab, share.max, scale};
  weigh_chunks(row, share, threshold, &shared.draw);
  __syncthreads();
  if (warp_index() == kDrawWarp) draw_entry(logits.row(n), vocab, scale, &shared.draw);
  if (warp_index() == 0) merge_warps(warp_count(), &shared.row);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const double inverse = shared.row.inverse_temperature;
  const RowState& kept = shared.row.state;
  const RowState& whole = kTruncates ? shared.whole : kept;
  draws.tokens[n] = shared.draw.token;
  draws.logprobs[n] = static_cast<float>(logprob_of(shared.draw.value, whole, inverse));
  draws.truncated_logprobs[n] = static_cast<float>(logprob_of(shared.draw.value, kept, inverse));
  draws.entropy[n] = static_cast<float>(whole.entropy);
}

}  // namespace

void sample(const SampleInputs& inputs, const SampleOutputs& outputs) {
  const char* op = "sample";
  const Draws draws(inputs, outputs);
  dispatch_storage(op, "logits", inputs.logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const Rows<const S> logits(inputs.logits);
    const auto start = [&](auto kernel) {
      launch(op, Target(inputs.logits), kernel, inputs.logits.shape[0],
             row_threads<S>(op, 0, logits.vocab), sizeof(SampleShared), logits, draws);
    };
    draws.truncates(logits.vocab) ? start(sample_kernel<S, true>) : start(sample_kernel<S, false>);
  });
}

}  // namespace rlhf::cuda
