// One block reads one row of logits: maximum, log of the sum of exponentials, entropy.
//
// A row is cut into contiguous shares, each read once by one warp (row_stream.cuh, or
// row_careful.cuh where that does not reach). Lanes sum in fp32; shares are combined in fp64 in
// their order. Which lane adds an element depends on the element's position in the row and on the
// row's length, never on the batch, the alignment or the number of warps. A NaN is never dropped.
// Formulas: csrc/math/gather_logprobs.h; CPU: row_body.h.
#pragma once

#include <algorithm>

#include "check.h"
#include "cuda/row_careful.cuh"
#include "cuda/row_inputs.cuh"
#include "cuda/row_stream.cuh"
#include "math/saved_row.h"

namespace rlhf::cuda {

constexpr int kMaxRowThreads = 512;
constexpr int kMaxRowWarps = kMaxRowThreads / kWarpSize;

// Into how many contiguous shares a row is cut: of its length alone, since the order of its sums
// hangs on it. A share is summed by one warp; a warp may take several, one after the other.
template <typename S>
RLHF_HD int row_shares(int64_t vocab) {
  const int64_t vectors = vocab * static_cast<int64_t>(sizeof(S)) / 16;
  if (vectors <= 1024) return 4;
  return vectors <= 16384 ? 8 : kMaxRowWarps;
}

// Threads of a row's block. Many small blocks keep the memory busier than few large ones; where
// there are too few rows for that, each gets as many warps as it has shares, if it may have `most`.
constexpr int64_t kManyRows = 1024;
template <typename S>
int row_threads(const char* op, int64_t rows, int64_t vocab, int most = kMaxRowThreads) {
  if (vocab > 0x7fffffff) fail(op, "logits", "has more than 2^31 - 1 columns; use the CPU");
  return std::min(most, (rows >= kManyRows ? 4 : row_shares<S>(vocab)) * kWarpSize);
}

// What one pass over a row yields, as on the CPU.
struct RowState {
  double max;      // of the logits, before the temperature
  double log_sum;  // log sum_j exp((x_j - max) / T)
  double entropy;  // nats
};

// In block_shared(), or a member of what is there.
struct RowShared {
  WarpSums warps[kMaxRowWarps];
  double sums[kMaxRowWarps];
  double inverse_temperature;  // kept here during a pass, which needs its registers
  RowState state;
};

// What a warp has summed of a share. Of an extreme one the maximum is left, which says that it is.
__device__ inline void leave_sums(const StreamSums& lane, float scale, WarpSums* out) {
  const float peaks = warp_sum(lane.peaks);
  const double rest = warp_sum(lane.rest[0] + lane.rest[1]);
  const double weighted = warp_sum(lane.weighted[0] + lane.weighted[1]);
  if (lane_index() == 0) {
    // From the reference to the maximum, which lies 2^shift below or above it.
    const double shift = static_cast<double>(lane.max) * scale - lane.reference;
    const double factor = exp2_fast(static_cast<float>(-shift));
    *out = {lane.max, peaks, rest * factor, (weighted - rest * shift) * factor, 0.0};
  }
}

// By the first warp: the warps' sums relative to the row's maximum, and the row's state.
__device__ inline void merge_warps(int warps, RowShared* shared) {
  const float scale = row_scale(shared->inverse_temperature);
  const int lane = lane_index();
  WarpSums mine = {-HUGE_VAL, 0.0, 0.0, 0.0, 0.0};
  if (lane < warps) mine = shared->warps[lane];
  const double max = warp_max(static_cast<float>(mine.max));
  double mass = mine.peaks + mine.rest;
  if (mine.max != max) {
    // Without mass the change may be -inf, and -inf * 0 is NaN.
    const double change = mass == 0 ? 0.0 : (mine.max - max) * scale;
    const double factor = exp2(change);
    mine.weighted = (mine.weighted + mass * change) * factor;
    mass *= factor;
    mine.rest = mass;
    mine.peaks = 0.0;
  }
  if (lane < warps) shared->warps[lane].mass = mass;
  const double peaks = warp_sum(mine.peaks);
  const double rest = warp_sum(mine.rest);
  const double weighted = warp_sum(mine.weighted);
  if (lane == 0) {
    const double log_sum = peaks == 1.0 ? log1p(rest) : log(peaks + rest);
    shared->state = {max, log_sum, log_sum - kLn2 * weighted / (peaks + rest)};
  }
}

// body(share, its vectors) for the shares of a row that fall to this warp.
template <typename S, typename Body>
__device__ void for_shares(int vocab, const Body& body, int warp = warp_index()) {
  const int shares = row_shares<S>(vocab);
  for (int share = warp; share < shares; share += warp_count()) {
    body(share, range_of_warp(vector_count<S>(vocab), share, shares));
  }
}

// The sums of a warp's share, of all entries.
template <typename S>
__device__ void sum_share(const RowReader<S>& reader, VectorRange range, float scale,
                          WarpSums* out) {
  StreamSums lane;
  for_vectors(reader, range, [&](auto& words) { stream_step<S>(words, scale, &lane); });
  leave_sums(lane, scale, out);
}

// By the warp that has left a share's sums: reads it again if it is extreme. Apart from the pass,
// so that it takes no registers from it.
template <typename S>
__device__ void reread_extreme(const S* row, int vocab, VectorRange range, float scale,
                               WarpSums* sums) {
  __syncwarp();
  if (!is_extreme(static_cast<float>(sums->max), scale)) return;
  careful_pass(row, vocab, range.begin, range.end, scale, -HUGE_VALF, sums);
}

// The sums of the warp's shares.
template <typename S>
__device__ void sum_shares(const S* row, int vocab, float scale, WarpSums* sums) {
  const RowReader<S> reader(row, vocab);
  for_shares<S>(
      vocab, [&](int share, VectorRange range) { sum_share(reader, range, scale, &sums[share]); });
  for_shares<S>(
      vocab,
      [&](int share, VectorRange range) { reread_extreme(row, vocab, range, scale, &sums[share]); },
      warp_index_anew());
}

// The state of a row at the temperature that `shared` has, of which `scale` is the row_scale().
template <typename S>
__device__ RowState row_state_at(const S* row, int vocab, float scale, RowShared* shared) {
  sum_shares(row, vocab, scale, shared->warps);
  __syncthreads();
  if (warp_index() == 0) merge_warps(row_shares<S>(vocab), shared);
  __syncthreads();
  return shared->state;
}

// The row's state, in every thread; all threads of the block call it. Afterwards shared->warps[w]
// has the mass of the w-th share.
template <typename S>
__device__ RowState row_state(const S* row, int vocab, double inverse_temperature,
                              RowShared* shared) {
  if (threadIdx.x == 0) shared->inverse_temperature = inverse_temperature;
  return row_state_at(row, vocab, row_scale(inverse_temperature), shared);
}

__device__ inline double logprob_of(double x, const RowState& state, double inverse_temperature) {
  return (x - state.max) * inverse_temperature - state.log_sum;
}

}  // namespace rlhf::cuda
