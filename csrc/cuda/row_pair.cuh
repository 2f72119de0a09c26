// The exact KL of two rows of logits, and the logs of both sums, in one pass over both.
//
// With u_j = exp(x_j / T) and d_j = (y_j - x_j) / T - c, for any reference of u and any c:
//   A = sum u     D = sum u d     G = sum u g(d)     g(d) = expm1(d) - d >= 0
//   r = (D + G) / A = sum exp(y / T - c) / A - 1     kappa = log1p(r)
//   KL = sum p (log p - log q) = G / A - g(kappa)
// Every term is small where the rows are alike, so that nothing cancels and equal rows give 0. c is
// the difference of the rows where x is largest, so that the terms of an entry with nearly all of p
// are exact; sums are brought from one c to another. Rows that are not alike (r or G / A not small)
// are left to row_kl.cuh. A warp sums relative to a power of two as in row_stream.cuh; lanes in
// fp32, warps in fp64, in their order.
#pragma once

#include "cuda/row_kl.cuh"

namespace rlhf::cuda {

constexpr int kMaxPairThreads = 256;  // so that a thread may have 80 registers, see row_threads()
constexpr int kPairBlocks = 3;        // of a multiprocessor
constexpr int kPairUnroll = 2;        // vectors of each row that a lane has in flight
constexpr float kNear = 0.5f;         // to which the series of g is good to 4e-8

struct PairConstants {
  float scale;    // log2(e) / T
  float inverse;  // 1 / T
};

// A warp's sums, relative to 2^row_reference(max) and to its own c.
struct PairSums {
  float max;
  float offset;
  double a, d, g;
};

// In block_shared(), or a member of what is there.
struct PairShared {
  PairSums warps[kMaxRowWarps];
  math::SavedRow saved;
  double kl;
  bool alike;
};

// g(d) / d^2 for |d| <= kNear
__device__ inline float near_series(float d) {
  float series = 1.0f / 40320;
  series = fmaf(series, d, 1.0f / 5040);
  series = fmaf(series, d, 1.0f / 720);
  series = fmaf(series, d, 1.0f / 120);
  series = fmaf(series, d, 1.0f / 24);
  series = fmaf(series, d, 1.0f / 6);
  return fmaf(series, d, 0.5f);
}

// From one c to another, smaller by `change`, of which `less` is the expm1:
//   d' = d + change: G' = A g(change) + D expm1(change) + G e^change
template <typename T>
__device__ void shift_sums(T change, T less, T a, T* d, T* g) {
  *g = a * (less - change) + (*d * less + *g * (less + 1));
  *d += change * a;
}

struct PairLane {
  float max = -FLT_MAX;  // the warp's
  float reference = 0;
  float offset = 0;  // c, of the warp
  float a[2] = {0, 0};
  float d[2] = {0, 0};
  float g[2] = {0, 0};

  __device__ float mass(float x, float scale) const {
    return exp2_fast(fmaf(max_keep_nan(x, kLowest), scale, -reference));
  }

  __device__ void add_near(float u, float difference, int part) {
    const float weighted = u * difference;
    a[part] += u;
    d[part] += weighted;
    g[part] = fmaf(weighted * difference, near_series(difference), g[part]);
  }

  // `v` is exp(y / T - c), relative to the same reference; without u there remains v.
  __device__ void add_far(float u, float v, float difference, int part) {
    if (fabsf(difference) <= kNear) return add_near(u, difference, part);
    const float weighted = u > 0 ? u * difference : u;
    a[part] += u;
    d[part] += weighted;
    g[part] += (v - u) - weighted;
  }

  __device__ void raise(float highest, float next_offset, float scale) {
    const float next = row_reference(highest, scale);
    const float factor = exp2_fast(reference_change(reference, next));
    // Nothing is there to be shifted yet when the first maximum comes.
    const float change = max == -FLT_MAX ? 0.0f : offset - next_offset, less = expm1f(change);
    RLHF_UNROLL
    for (int part = 0; part < 2; ++part) {
      shift_sums(change, less, a[part], &d[part], &g[part]);
      a[part] *= factor;
      d[part] *= factor;
      g[part] *= factor;
    }
    max = highest;
    reference = next;
    offset = next_offset;
  }
};

// (y - x) / T of the first entry of the warp's step that has the largest x; `otherwise` where that
// is no number of a usual size.
template <typename S, int kSize>
__device__ float offset_at(float top, const uint32_t (&x)[kSize], const uint32_t (&y)[kSize],
                           float inverse, float otherwise) {
  float mine = NAN;
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) {
    const float low = Packed<S>::low(x[i]), high = Packed<S>::high(x[i]);
    if (Packed<S>::kPerWord == 2 && high == top) mine = (Packed<S>::high(y[i]) - high) * inverse;
    if (low == top) mine = (Packed<S>::low(y[i]) - low) * inverse;
  }
  const unsigned usable = __ballot_sync(kFullWarp, fabsf(mine) < 1e4f);
  if (usable == 0) return otherwise;
  return __shfl_sync(kFullWarp, mine, __ffs(static_cast<int>(usable)) - 1);
}

template <int kSize>
__device__ bool all_near(const float (&differences)[kSize]) {
  bool near = true;
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) near = near && fabsf(differences[i]) <= kNear;  // no NaN is
  return near;
}

template <typename S, int kSize>
__device__ void pair_step(const uint32_t (&x)[kSize], const uint32_t (&y)[kSize],
                          const PairConstants& k, PairLane* lane) {
  constexpr int kPerWord = Packed<S>::kPerWord;
  const float highest = highest_of_words<S>(x);
  if (__any_sync(kFullWarp, highest > lane->max)) {
    const float top = warp_highest(highest);
    if (top > lane->max) {
      lane->raise(top, offset_at<S>(top, x, y, k.inverse, lane->offset), k.scale);
    }
  }
  float difference[kSize * kPerWord];
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) {
    difference[i * kPerWord] =
        fmaf(Packed<S>::low(y[i]) - Packed<S>::low(x[i]), k.inverse, -lane->offset);
    if (kPerWord == 2) {
      difference[i * kPerWord + kPerWord - 1] =
          fmaf(Packed<S>::high(y[i]) - Packed<S>::high(x[i]), k.inverse, -lane->offset);
    }
  }
  const bool near = __all_sync(kFullWarp, all_near(difference));
  const float shift = fmaf(lane->offset, static_cast<float>(kLog2E), lane->reference);
  const auto add = [&](float a, float b, int index) {
    const float u = lane->mass(a, k.scale);
    const float d = difference[index];
    if (near) return lane->add_near(u, d, index % 2);
    lane->add_far(u, exp2_fast(fmaf(max_keep_nan(b, kLowest), k.scale, -shift)), d, index % 2);
  };
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) {
    add(Packed<S>::low(x[i]), Packed<S>::low(y[i]), i * kPerWord);
    if (kPerWord == 2) add(Packed<S>::high(x[i]), Packed<S>::high(y[i]), i * kPerWord + 1);
  }
}

// Leaves the warp's sums in `out`.
template <typename S>
__device__ void pair_pass(const RowReader<S>& x_reader, const RowReader<S>& y_reader,
                          VectorRange range, const PairConstants& k, PairSums* out) {
  PairLane lane;
  constexpr int kStep = kPairUnroll * kWarpSize;
  int v = range.begin;
  for (; v + kStep <= range.end; v += kStep) {
    uint32_t x[kPairUnroll * kWords], y[kPairUnroll * kWords];
    x_reader.template read<kPairUnroll>(v, range.end, x);
    y_reader.template read<kPairUnroll>(v, range.end, y);
    pair_step<S>(x, y, k, &lane);
  }
  for (; v < range.end; v += kWarpSize) {
    uint32_t x[kWords], y[kWords];
    x_reader.template read<1>(v, range.end, x);
    y_reader.template read<1>(v, range.end, y);
    pair_step<S>(x, y, k, &lane);
  }
  const float a = warp_sum(lane.a[0] + lane.a[1]), d = warp_sum(lane.d[0] + lane.d[1]);
  const float g = warp_sum(lane.g[0] + lane.g[1]);
  if (lane_index() == 0) *out = {lane.max, lane.offset, a, d, g};
}

// By the first warp: the row's KL and saved state from the warps' sums; `alike` is false where they
// cannot be trusted.
__device__ inline void merge_pairs(int warps, double inverse, PairShared* shared) {
  const float scale = row_scale(inverse);
  const int lane = lane_index();
  PairSums mine = {-FLT_MAX, 0.0f, 0.0, 0.0, 0.0};
  if (lane < warps) mine = shared->warps[lane];
  const float max = warp_max(mine.max), reference = row_reference(max, scale);
  // A share that is nothing beside the others may hold what is no number.
  const bool counts = lane < warps && !is_extreme(mine.max, scale);
  const unsigned highest = __ballot_sync(kFullWarp, mine.max == max);
  const int chosen = highest == 0 ? 0 : __ffs(static_cast<int>(highest)) - 1;
  const double offset = __shfl_sync(kFullWarp, mine.offset, chosen);
  const double moved = mine.offset - offset;
  if (counts && moved != 0) shift_sums(moved, expm1(moved), mine.a, &mine.d, &mine.g);
  const float change = reference_change(row_reference(mine.max, scale), reference);
  const double factor = counts ? exp2_fast(change) : 0.0f;
  const bool dropped = lane < warps && !counts;
  const double a = warp_sum(counts ? mine.a * factor : 0.0);
  const double d = warp_sum(counts ? mine.d * factor : 0.0);
  const double g = warp_sum(counts ? mine.g * factor : 0.0);
  const bool whole = !__any_sync(kFullWarp, dropped);
  if (lane != 0) return;
  const double r = (d + g) / a, mean = g / a;
  shared->alike = whole && !is_extreme(max, scale) && fabs(r) <= 0.6 && mean <= 2.0;
  const double kappa = log1p(r), kl = mean - (r - kappa);
  shared->kl = kl > 0 ? kl : 0.0;
  const double log_sum =
      log(a) + kLn2 * (reference - static_cast<double>(max) * scale);  // relative to max
  math::SavedRow& saved = shared->saved;
  saved = math::SavedRow();
  saved.inverse_temperature = inverse;
  saved.max = saved.ref_max = max;
  saved.log_sum = log_sum;
  saved.ref_log_sum = log_sum + kappa + offset;
}

// The careful way: three passes. Leaves the same as merge_pairs().
template <typename S>
__device__ void careful_kl(const S* x, const S* y, int vocab, PairShared* pair, RowShared* row) {
  const float scale = row_scale(row->inverse_temperature);
  const RowState state = row_state_at(x, vocab, scale, row);
  if (threadIdx.x == 0) {
    pair->saved.max = state.max;
    pair->saved.log_sum = state.log_sum;
  }
  const RowState ref_state = row_state_at(y, vocab, scale, row);
  if (threadIdx.x == 0) {
    pair->saved.ref_max = ref_state.max;
    pair->saved.ref_log_sum = ref_state.log_sum;
  }
  __syncthreads();
  const double kl = row_exact_kl(x, y, vocab, pair->saved, row);
  if (threadIdx.x == 0) pair->kl = kl;
}

// For the first thread: the KL in `pair->kl`, and max, log_sum, ref_max, ref_log_sum and the
// inverse temperature in `pair->saved`; all threads of the block call it.
template <typename S>
__device__ void pair_kl(const S* x, const S* y, int vocab, double inverse_temperature,
                        PairShared* pair, RowShared* row) {
  if (threadIdx.x == 0) row->inverse_temperature = inverse_temperature;
  const RowReader<S> x_reader(x, vocab), y_reader(y, vocab);
  const PairConstants k = {row_scale(inverse_temperature), static_cast<float>(inverse_temperature)};
  for_shares<S>(vocab, [&](int share, VectorRange range) {
    pair_pass<S>(x_reader, y_reader, range, k, &pair->warps[share]);
  });
  __syncthreads();
  if (warp_index() == 0) merge_pairs(row_shares<S>(vocab), row->inverse_temperature, pair);
  __syncthreads();
  if (!pair->alike) careful_kl(x, y, vocab, pair, row);
}

}  // namespace rlhf::cuda
