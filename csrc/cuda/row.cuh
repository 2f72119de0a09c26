// One block reads one row of logits: maximum, log of the sum of exponentials, entropy.
//
// Warp w reads the w-th contiguous share of the row's vectors once and keeps a running maximum of
// its own; e = 2^t with t = (x - max) log2(e) / T. Lanes sum in fp32; lanes and then warps are
// combined in fp64 in a fixed order. Which thread adds an element depends on the element's position
// in the row and on the row's length, never on the batch or the alignment. Entries equal to the
// maximum are counted apart: in one fp32 sum with a 1 the rest would vanish as p -> 1, and 1 - p
// with it. A NaN is never dropped. Formulas: csrc/math/gather_logprobs.h; CPU: row_body.h.
#pragma once

#include <cfloat>
#include <optional>

#include "check.h"
#include "cuda/reduce.cuh"
#include "cuda/row_read.cuh"
#include "math/saved_row.h"

namespace rlhf::cuda {

constexpr int kMaxRowThreads = 512;
constexpr int kMaxRowWarps = kMaxRowThreads / kWarpSize;
constexpr int kRowUnroll = 4;  // vectors a lane has in flight
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// Threads of a row's block: of the row's length alone, since the order of its sums hangs on it.
inline int row_threads(const char* op, int64_t vocab, size_t element_size) {
  if (vocab > 0x7fffffff) fail(op, "logits", "has more than 2^31 - 1 columns; use the CPU");
  const int64_t vectors = vocab * static_cast<int64_t>(element_size) / 16;
  if (vectors <= 1024) return 128;
  return vectors <= 16384 ? 256 : kMaxRowThreads;
}

// What one pass over a row yields, as on the CPU.
struct RowState {
  double max;      // of the logits, before the temperature
  double log_sum;  // log sum_j exp((x_j - max) / T)
  double entropy;  // nats
};

// sum 2^t and sum 2^t t over a warp's share, relative to its own maximum.
struct WarpSums {
  double max;
  double peaks;
  double rest;
  double weighted;
  double mass;  // once the row is merged: of the share, relative to the row's maximum
};

// In block_shared(), or a member of what is there.
struct RowShared {
  WarpSums warps[kMaxRowWarps];
  double sums[kMaxRowWarps];
  RowState state;
};

// Which entries a pass counts: a functor that gives the entry, or -inf.
struct EveryEntry {
  __device__ float operator()(float x) const { return x; }
};

__device__ inline float row_scale(double inverse_temperature) {
  return static_cast<float>(inverse_temperature * kLog2E);
}

// log2 of the entry's share relative to the maximum, limited so that 0 * t stays 0.
__device__ inline float row_exponent(float x, float max, float scale) {
  return max_keep_nan((x - max) * scale, -200.0f);
}

struct LaneSums {
  float max = -FLT_MAX;  // the warp's, the same in all lanes; only -inf lies below its start
  float peaks = 0;
  float rest[2] = {0, 0};
  float weighted[2] = {0, 0};

  template <bool kPeaks>
  __device__ void add(float x, float scale, int part) {
    const float t = row_exponent(x, max, scale);
    const float e = exp2_fast(t);
    weighted[part] = fmaf(e, t, weighted[part]);
    if (kPeaks) {
      const bool below = t < 0;  // a NaN takes the other branch and stays in e - 1
      peaks += below ? 0.0f : 1.0f;
      rest[part] += below ? e : e - 1.0f;
    } else {
      rest[part] += e;
    }
  }

  __device__ void raise(float highest, float scale) {
    const float change = row_exponent(max, highest, scale);
    const float factor = exp2_fast(change);
    rest[0] += peaks;
    peaks = 0;
    RLHF_UNROLL
    for (int part = 0; part < 2; ++part) {
      weighted[part] = fmaf(rest[part], change, weighted[part]) * factor;
      rest[part] *= factor;
    }
    max = highest;
  }
};

template <typename S, int kSize>
__device__ float highest_of(const uint32_t (&words)[kSize]) {
  uint32_t best = words[0];
  RLHF_UNROLL
  for (int i = 1; i < kSize; ++i) best = Packed<S>::max(best, words[i]);
  return fmaxf(Packed<S>::low(best), Packed<S>::high(best));
}

template <typename S, bool kPeaks, typename Kept, int kSize>
__device__ void add_words(const uint32_t (&words)[kSize], float scale, const Kept& kept,
                          LaneSums* sums) {
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) {
    const int part = Packed<S>::kPerWord == 1 ? i % 2 : 0;
    sums->template add<kPeaks>(kept(Packed<S>::low(words[i])), scale, part);
    if (Packed<S>::kPerWord == 2) {
      sums->template add<kPeaks>(kept(Packed<S>::high(words[i])), scale, 1);
    }
  }
}

// Only when a lane has something at or above the warp's maximum is there more to do than to add.
template <typename S, typename Kept, int kSize>
__device__ void add_step(const uint32_t (&words)[kSize], float scale, const Kept& kept,
                         LaneSums* sums) {
  const float highest = highest_of<S>(words);
  if (!__any_sync(kFullWarp, highest >= sums->max)) {
    return add_words<S, false>(words, scale, kept, sums);
  }
  const float top = warp_max(highest);
  if (top > sums->max) sums->raise(top, scale);
  add_words<S, true>(words, scale, kept, sums);
}

// Leaves the warp's sums in `out`.
template <typename S, typename Kept>
__device__ void row_pass(const RowReader<S>& reader, VectorRange range, float scale,
                         const Kept& kept, WarpSums* out) {
  LaneSums lane;
  int v = range.begin;
  for (; v + kRowUnroll * kWarpSize <= range.end; v += kRowUnroll * kWarpSize) {
    uint32_t words[kRowUnroll * kWords];
    reader.template read<kRowUnroll>(v, range.end, words);
    add_step<S>(words, scale, kept, &lane);
  }
  for (; v < range.end; v += kWarpSize) {
    uint32_t words[kWords];
    reader.template read<1>(v, range.end, words);
    add_step<S>(words, scale, kept, &lane);
  }
  const double peaks = warp_sum(static_cast<double>(lane.peaks));
  const double rest = warp_sum(static_cast<double>(lane.rest[0]) + lane.rest[1]);
  const double weighted = warp_sum(static_cast<double>(lane.weighted[0]) + lane.weighted[1]);
  if (lane_index() == 0) {
    const double max = peaks > 0 ? static_cast<double>(lane.max) : -HUGE_VAL;
    *out = {max, peaks, rest, weighted, 0.0};
  }
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

// The row's state, in every thread; all threads of the block call it. Afterwards shared->warps[w]
// has the mass of the w-th of warp_count() shares, which is range_of_warp() of the row's vectors.
template <typename S, typename Kept = EveryEntry>
__device__ RowState row_state(const S* row, int vocab, double inverse_temperature,
                              RowShared* shared, const Kept& kept = Kept()) {
  const float scale = row_scale(inverse_temperature);
  const int warp = warp_index(), warps = warp_count();
  row_pass<S>(RowReader<S>(row, vocab), range_of_warp(vector_count<S>(vocab), warp, warps), scale,
              kept, &shared->warps[warp]);
  __syncthreads();
  if (warp == 0) merge_warps(warps, scale, shared);
  __syncthreads();
  return shared->state;
}

// The sum of the threads' values in a fixed order, in every thread.
__device__ inline double block_sum(double value, RowShared* shared) {
  const double sum = warp_sum(value);
  if (lane_index() == 0) shared->sums[warp_index()] = sum;
  __syncthreads();
  double total = 0.0;
  for (int warp = 0; warp < warp_count(); ++warp) total += shared->sums[warp];
  __syncthreads();
  return total;
}

__device__ inline double logprob_of(double x, const RowState& state, double inverse_temperature) {
  return (x - state.max) * inverse_temperature - state.log_sum;
}

// Rows of a [N, V] tensor.
template <typename S>
struct Rows {
  explicit Rows(const TensorView& view)
      : base(view.as<S>()), stride(view.strides[0]), vocab(static_cast<int>(view.shape[1])) {}
  __device__ S* row(int64_t index) const { return base + index * stride; }

  S* base;
  int64_t stride;
  int vocab;
};

struct Targets {
  explicit Targets(const TensorView& view)
      : ids(view.data), is_int32(view.dtype == DType::kInt32) {}
  // -1 for what is outside the vocabulary.
  __device__ int of(int64_t row, int vocab) const {
    const int64_t id =
        is_int32 ? static_cast<const int32_t*>(ids)[row] : static_cast<const int64_t*>(ids)[row];
    return id >= 0 && id < vocab ? static_cast<int>(id) : -1;
  }

  const void* ids;
  bool is_int32;
};

// One temperature for all rows, or a float32 or float64 [N].
struct Temperatures {
  Temperatures(const std::optional<TensorView>& view, double common)
      : values(view ? view->data : nullptr),
        is_double(view && view->dtype == DType::kFloat64),
        inverse(1.0 / common) {}
  // NaN for what the CPU's check refuses (ops/row_checks.cpp), so that all that follows is NaN.
  __device__ double inverse_of(int64_t row) const {
    if (values == nullptr) return inverse;
    const double value = is_double ? static_cast<const double*>(values)[row]
                                   : static_cast<const float*>(values)[row];
    return value >= 1e-4 * (1 - 1e-6) && value <= 1e30 ? 1.0 / value : NAN;
  }

  const void* values;
  bool is_double;
  double inverse;
};

inline const bool* mask_bits(const std::optional<TensorView>& mask) {
  return mask ? mask->as<const bool>() : nullptr;
}

// Without a mask every row counts.
__device__ inline bool row_counts(const bool* mask, int64_t row) {
  return mask == nullptr || mask[row];
}

}  // namespace rlhf::cuda
