// One block reads one row of logits: maximum, log of the sum of exponentials, entropy.
//
// A row is cut into contiguous shares, each read once by one warp (row_stream.cuh, or
// row_careful.cuh where that does not reach). Lanes sum in fp32; shares are combined in fp64 in
// their order. Which lane adds an element depends on the element's position in the row and on the
// row's length, never on the batch, the alignment or the number of warps. A NaN is never dropped.
// Formulas: csrc/math/gather_logprobs.h; CPU: row_body.h.
#pragma once

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
// there are too few rows for that, each gets as many warps as it has shares.
constexpr int64_t kManyRows = 1024;
template <typename S>
int row_threads(const char* op, int64_t rows, int64_t vocab) {
  if (vocab > 0x7fffffff) fail(op, "logits", "has more than 2^31 - 1 columns; use the CPU");
  return (rows >= kManyRows ? 4 : row_shares<S>(vocab)) * kWarpSize;
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
  RowState state;
};

// What a warp has summed of the share `range`; an extreme one is read again from the row.
template <typename S>
__device__ void leave_sums(const StreamSums& lane, const RowReader<S>& reader, VectorRange range,
                           float scale, WarpSums* out) {
  if (is_extreme(lane.max, scale)) {
    return careful_pass(reader.row, reader.elements, range.begin, range.end, scale, -HUGE_VALF,
                        out);
  }
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

// The same as careful_pass() for all entries, in fewer instructions.
template <typename S>
__device__ void row_pass(const RowReader<S>& reader, VectorRange range, float scale,
                         const EveryEntry&, WarpSums* out) {
  StreamSums lane;
  for_vectors(reader, range, [&](auto& words) { stream_step<S>(words, scale, &lane); });
  leave_sums(lane, reader, range, scale, out);
}

template <typename S>
__device__ void row_pass(const RowReader<S>& reader, VectorRange range, float scale,
                         EntriesFrom kept, WarpSums* out) {
  careful_pass(reader.row, reader.elements, range.begin, range.end, scale, kept.threshold, out);
}

// By the first warp: the warps' sums relative to the row's maximum, and the row's state.
__device__ inline void merge_warps(int warps, float scale, RowShared* shared) {
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
__device__ void for_shares(int vocab, const Body& body) {
  const int shares = row_shares<S>(vocab);
  for (int share = warp_index(); share < shares; share += warp_count()) {
    body(share, range_of_warp(vector_count<S>(vocab), share, shares));
  }
}

// The row's state, in every thread; all threads of the block call it. Afterwards shared->warps[w]
// has the mass of the w-th share.
template <typename S>
__device__ RowState row_state(const S* row, int vocab, double inverse_temperature,
                              RowShared* shared) {
  const float scale = row_scale(inverse_temperature);
  const RowReader<S> reader(row, vocab);
  for_shares<S>(vocab, [&](int share, VectorRange range) {
    row_pass<S>(reader, range, scale, EveryEntry(), &shared->warps[share]);
  });
  __syncthreads();
  if (warp_index() == 0) merge_warps(row_shares<S>(vocab), scale, shared);
  __syncthreads();
  return shared->state;
}

__device__ inline double logprob_of(double x, const RowState& state, double inverse_temperature) {
  return (x - state.max) * inverse_temperature - state.log_sum;
}

}  // namespace rlhf::cuda
