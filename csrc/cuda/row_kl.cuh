// The exact KL of two rows of logits whose states are known: the careful way, for rows that
// row_pair.cuh does not take. Formula: csrc/math/exact_kl.h.
#pragma once

#include "cuda/row_gradient.cuh"

namespace rlhf::cuda {

constexpr int kKlUnroll = 2;  // vectors of each row that a lane has in flight

struct KlConstants {
  float max, ref_max, scale, share, ref_share, inverse, shift;
};

__device__ inline KlConstants kl_constants(const math::SavedRow& s) {
  return {static_cast<float>(s.max),
          static_cast<float>(s.ref_max),
          row_scale(s.inverse_temperature),
          static_cast<float>(exp(-s.log_sum)),
          static_cast<float>(exp(-s.ref_log_sum)),
          static_cast<float>(s.inverse_temperature),
          shift_between(s)};
}

// p (expm1(d) - d) with d = log q - log p: never negative, and exact to fp32 for tiny differences.
// For |d| >= 1 the same is q - p - p d; where p is 0 what remains is q.
__device__ inline float kl_term(float x, float y, const KlConstants& k) {
  const float p = exp2_fast(row_exponent(x, k.max, k.scale)) * k.share;
  const float q = exp2_fast(row_exponent(y, k.ref_max, k.scale)) * k.ref_share;
  const float d = log_ratio(x, y, k.inverse, k.shift);
  // 1 / n!: the series of (expm1(d) - d) / d^2.
  float series = 1.0f / 3628800;
  series = fmaf(series, d, 1.0f / 362880);
  series = fmaf(series, d, 1.0f / 40320);
  series = fmaf(series, d, 1.0f / 5040);
  series = fmaf(series, d, 1.0f / 720);
  series = fmaf(series, d, 1.0f / 120);
  series = fmaf(series, d, 1.0f / 24);
  series = fmaf(series, d, 1.0f / 6);
  series = fmaf(series, d, 0.5f);
  const float near = p * (d * d * series);
  const float far = fmaf(-p, d, q - p);
  const float inside = fabsf(d) < 1.0f ? near : far;
  return p > 0 ? inside : (p != p ? p : q);
}

template <typename S, int kCount>
__device__ float kl_step(const RowReader<S>& x_reader, const RowReader<S>& y_reader, int v, int end,
                         const KlConstants& k, float sum) {
  uint32_t x[kCount * kWords], y[kCount * kWords];
  x_reader.template read<kCount>(v, end, x);
  y_reader.template read<kCount>(v, end, y);
  RLHF_UNROLL
  for (int i = 0; i < kCount * kWords; ++i) {
    sum += kl_term(Packed<S>::low(x[i]), Packed<S>::low(y[i]), k);
    if (Packed<S>::kPerWord == 2) {
      sum += kl_term(Packed<S>::high(x[i]), Packed<S>::high(y[i]), k);
    }
  }
  return sum;
}

// sum_v p (log p - log q), in every thread; all threads of the block call it.
template <typename S>
__device__ double row_exact_kl(const S* row, const S* ref_row, int vocab,
                               const math::SavedRow& saved, RowShared* shared) {
  const KlConstants k = kl_constants(saved);
  const RowReader<S> x_reader(row, vocab), y_reader(ref_row, vocab);
  for_shares<S>(vocab, [&](int share, VectorRange range) {
    float sum = 0.0f;
    int v = range.begin;
    for (; v + kKlUnroll * kWarpSize <= range.end; v += kKlUnroll * kWarpSize) {
      sum = kl_step<S, kKlUnroll>(x_reader, y_reader, v, range.end, k, sum);
    }
    for (; v < range.end; v += kWarpSize) {
      sum = kl_step<S, 1>(x_reader, y_reader, v, range.end, k, sum);
    }
    const double total = warp_sum(static_cast<double>(sum));
    if (lane_index() == 0) shared->sums[share] = total;
  });
  __syncthreads();
  double total = 0.0;
  for (int share = 0; share < row_shares<S>(vocab); ++share) total += shared->sums[share];
  __syncthreads();
  return total;
}

}  // namespace rlhf::cuda
