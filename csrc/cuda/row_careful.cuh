// The sums of a warp's share of a row, relative to the running maximum itself: for logits of any
// size, and for some of the entries. row_stream.cuh is the shorter way that nearly all rows take.
//
// e = 2^t with t = (x - max) log2(e) / T. Entries equal to the maximum are counted apart, as there.
#pragma once

#include <cfloat>

#include "cuda/reduce.cuh"
#include "cuda/row_read.cuh"

namespace rlhf::cuda {

constexpr int kRowUnroll = 4;  // vectors a lane has in flight
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// sum 2^t and sum 2^t t over a warp's share, relative to its own maximum.
struct WarpSums {
  double max;
  double peaks;
  double rest;
  double weighted;
  double mass;  // once the row is merged: of the share, relative to the row's maximum
};

// Which entries a pass counts: those that are not below a threshold.
struct EntriesFrom {
  float threshold;
  __device__ float operator()(float x) const { return x < threshold ? -HUGE_VALF : x; }
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

template <typename S, bool kPeaks, int kSize>
__device__ void add_words(const uint32_t (&words)[kSize], float scale, EntriesFrom kept,
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
template <typename S, int kSize>
__device__ void add_step(const uint32_t (&words)[kSize], float scale, EntriesFrom kept,
                         LaneSums* sums) {
  const float highest = highest_of<S>(words);
  if (!__any_sync(kFullWarp, highest >= sums->max)) {
    return add_words<S, false>(words, scale, kept, sums);
  }
  const float top = warp_max(highest);
  if (top > sums->max) sums->raise(top, scale);
  add_words<S, true>(words, scale, kept, sums);
}

// body(words) for the warp's vectors: kRowUnroll * 32 at a time, then 32.
template <typename S, typename Body>
__device__ void for_vectors(const RowReader<S>& reader, VectorRange range, const Body& body) {
  int v = range.begin;
  for (; v + kRowUnroll * kWarpSize <= range.end; v += kRowUnroll * kWarpSize) {
    uint32_t words[kRowUnroll * kWords];
    reader.template read<kRowUnroll>(v, range.end, words);
    body(words);
  }
  for (; v < range.end; v += kWarpSize) {
    uint32_t words[kWords];
    reader.template read<1>(v, range.end, words);
    body(words);
  }
}

// Leaves the warp's sums in `out`; for whatever entries are kept, and whatever their size. A
// function of its own, so that it takes no registers from the pass that nearly all rows take.
template <typename S>
__device__ RLHF_NOINLINE void careful_pass(const S* row, int vocab, int begin, int end, float scale,
                                           float threshold, WarpSums* out) {
  const RowReader<S> reader(row, vocab);
  const VectorRange range = {begin, end};
  const EntriesFrom kept = {threshold};
  LaneSums lane;
  for_vectors(reader, range, [&](auto& words) { add_step<S>(words, scale, kept, &lane); });
  const double peaks = warp_sum(static_cast<double>(lane.peaks));
  const double rest = warp_sum(static_cast<double>(lane.rest[0]) + lane.rest[1]);
  const double weighted = warp_sum(static_cast<double>(lane.weighted[0]) + lane.weighted[1]);
  __syncwarp();  // all lanes have read what `out` held
  if (lane_index() == 0) {
    const double max = peaks > 0 ? static_cast<double>(lane.max) : -HUGE_VAL;
    *out = {max, peaks, rest, weighted, 0.0};
  }
}

}  // namespace rlhf::cuda
