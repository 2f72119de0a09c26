// sample on CUDA: one block per row. Without truncation one read of the row and the warp's share
// of it in which the draw falls again; with it a read per 8 bits of the threshold and one for the
// kept mass. Histograms are of integers, so that atomics leave no order in them. Formula:
// csrc/math/sample.h.
#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/row.cuh"
#include "cuda/sample.h"
#include "cuda/select.cuh"

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
  double scan[kMaxRowWarps];
  int64_t first[kMaxRowWarps];
  int64_t last[kMaxRowWarps];
};

// The entries that truncation leaves.
struct EntriesFrom {
  float threshold;
  __device__ float operator()(float x) const { return x < threshold ? -HUGE_VALF : x; }
};

// Relative to the row's maximum.
__device__ double total_mass(const RowShared& row) {
  double total = 0.0;
  for (int warp = 0; warp < warp_count(); ++warp) total += row.warps[warp].mass;
  return total;
}

// The sum of `value` over the threads before this one.
__device__ double sum_before(double value, double* scan) {
  double upto = value;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const double other = __shfl_up_sync(kFullWarp, upto, offset);
    if (lane_index() >= offset) upto += other;
  }
  if (lane_index() == kWarpSize - 1) scan[warp_index()] = upto;
  __syncthreads();
  double before = upto - value;
  for (int warp = 0; warp < warp_index(); ++warp) before += scan[warp];
  return before;
}

// The first entry of a warp's share at which the running sum exceeds `goal`; the last one with a
// mass if rounding leaves none. An entry without mass never is.
template <typename S>
__device__ int64_t draw_in_share(const SampledRow<S>& row, VectorRange range, float threshold,
                                 double goal, SampleShared* shared) {
  const int vectors =
      (range.end - range.begin + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
  const int64_t own = range.begin + static_cast<int64_t>(vectors) * threadIdx.x;
  const int64_t begin = own * kPack<S>;
  int64_t end = (own + vectors < range.end ? own + vectors : range.end) * kPack<S>;
  if (end > row.vocab) end = row.vocab;
  double sum = 0.0;
  for (int64_t i = begin; i < end; ++i) sum += row.kept_mass(i, threshold);
  sum = sum_before(sum, shared->scan);
  int64_t first = row.vocab, last = -1;
  for (int64_t i = begin; i < end; ++i) {
    const float mass = row.kept_mass(i, threshold);
    if (!(mass > 0)) continue;
    last = i;
    sum += mass;
    if (sum > goal && first == row.vocab) first = i;
  }
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const int64_t low = __shfl_xor_sync(kFullWarp, first, offset);
    const int64_t high = __shfl_xor_sync(kFullWarp, last, offset);
    first = low < first ? low : first;
    last = high > last ? high : last;
  }
  if (lane_index() == 0) {
    shared->first[warp_index()] = first;
    shared->last[warp_index()] = last;
  }
  __syncthreads();
  for (int warp = 0; warp < warp_count(); ++warp) {
    first = shared->first[warp] < first ? shared->first[warp] : first;
    last = shared->last[warp] > last ? shared->last[warp] : last;
  }
  return first < row.vocab ? first : last;
}

// The share in which the running sum exceeds u times the whole, then the entry.
template <typename S>
__device__ int64_t draw(const SampledRow<S>& row, float threshold, double u, SampleShared* shared) {
  const int warps = warp_count();
  const double goal = u * total_mass(shared->row);
  double sum = 0.0, below = 0.0;
  int chosen = 0;
  for (int warp = 0; warp < warps; ++warp) {
    const double mass = shared->row.warps[warp].mass;
    if (!(mass > 0)) continue;
    chosen = warp;
    below = sum;
    sum += mass;
    if (sum > goal) break;
  }
  // Relative to the share's own maximum: there its entries are not too small to have a mass.
  SampledRow<S> share = row;
  share.max = static_cast<float>(shared->row.warps[chosen].max);
  const double factor = exp2((static_cast<double>(share.max) - row.max) * row.scale);
  const double rest = factor > 0 && goal > below ? (goal - below) / factor : 0.0;
  const VectorRange range = range_of_warp(vector_count<S>(row.vocab), chosen, warps);
  return draw_in_share(share, range, threshold, rest, shared);
}

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

template <typename S>
__global__ void sample_kernel(Rows<const S> logits, Draws draws) {
  SampleShared& shared = block_shared<SampleShared>();
  const int64_t n = blockIdx.x;
  const int vocab = logits.vocab;
  const S* x = logits.row(n);
  const double inverse = draws.temperatures.inverse_of(n);
  const RowState state = row_state(x, vocab, inverse, &shared.row);
  const double total = total_mass(shared.row);
  if (!(total > 0 && total < HUGE_VAL)) {
    if (threadIdx.x == 0) {
      draws.tokens[n] = -1;
      draws.logprobs[n] = draws.truncated_logprobs[n] = draws.entropy[n] = NAN;
    }
    return;
  }
  const SampledRow<S> row = {x, vocab, static_cast<float>(state.max), row_scale(inverse)};
  const float threshold = find_threshold(row, draws, &shared.select);
  RowState kept = state;
  if (threshold > -HUGE_VALF) {
    kept = row_state(x, vocab, inverse, &shared.row, EntriesFrom{threshold});
  }
  const double u = math::uniform_at(draws.seed, draws.row_ids[n], draws.positions[n]);
  const int64_t token = draw(row, threshold, u, &shared);
  if (threadIdx.x != 0) return;
  draws.tokens[n] = token;
  draws.logprobs[n] = static_cast<float>(logprob_of(row.value(token), state, inverse));
  draws.truncated_logprobs[n] = static_cast<float>(logprob_of(row.value(token), kept, inverse));
  draws.entropy[n] = static_cast<float>(state.entropy);
}

}  // namespace

void sample(const SampleInputs& inputs, const SampleOutputs& outputs) {
  const char* op = "sample";
  const Draws draws(inputs, outputs);
  dispatch_storage(op, "logits", inputs.logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const Rows<const S> logits(inputs.logits);
    launch(op, Target(inputs.logits), sample_kernel<S>, inputs.logits.shape[0],
           row_threads(op, logits.vocab, sizeof(S)), sizeof(SampleShared), logits, draws);
  });
}

}  // namespace rlhf::cuda
