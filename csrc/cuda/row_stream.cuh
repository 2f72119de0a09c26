// The sums of a warp's share of a row, with exponents relative to a power of two.
//
// With s = log2(e) / T, a warp keeps R = ceil(s max) and adds up e = 2^(s x - R): one FMA and one
// exponential an element, and a rising maximum scales what is there by an exact power of two.
// Entries equal to the maximum are counted apart: in one fp32 sum with a 1 the rest would vanish as
// p -> 1, and 1 - p with it. Where |s max| is not at most 2^26, R cannot follow it closely:
// is_extreme() finds such a share, and row.cuh reads it again another way.
#pragma once

#include <cfloat>
#include <type_traits>

#include "cuda/reduce.cuh"
#include "cuda/row_read.cuh"

namespace rlhf::cuda {

constexpr float kLowest = -1e30f;  // what lies below is taken for this, whose share is 0
constexpr float kLargestReference = 67108864.0f;

__device__ inline bool is_extreme(float max, float scale) {
  return !(fabsf(max * scale) <= kLargestReference);
}

__device__ inline float row_reference(float max, float scale) {
  return is_extreme(max, scale) ? 0.0f : ceilf(max * scale);
}

// Of what was added up relative to `from`, as a power of two: within what fp32 holds.
__device__ inline float reference_change(float from, float to) {
  return fminf(fmaxf(from - to, -200.0f), 100.0f);
}

// Not below kLowest, so that e * t is finite; a NaN stays.
template <typename S>
__device__ inline uint32_t raise_lowest(uint32_t word) {
  return word;
}
template <>
__device__ inline uint32_t raise_lowest<BFloat16>(uint32_t word) {
#ifdef __CUDA_ARCH__
  uint32_t raised;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(raised) : "r"(word), "r"(0xf14af14au));
  return raised;
#else
  const auto keep = [](uint32_t bits) {
    return max_keep_nan(bits_to_float(bits), bits_to_float(0xf14a0000u));
  };
  return PackedPair<BFloat16>::pack_each(keep(word << 16), keep(word & 0xffff0000u));
#endif
}

template <typename S>
__device__ inline float raise_lowest_value(float x) {
  return std::is_same<S, BFloat16>::value ? x : max_keep_nan(x, kLowest);
}

// Counts the entries of `word` that equal `max` and takes them out: what remains there has no
// share.
template <typename S>
__device__ inline float take_peaks(float max, uint32_t* word) {
  float low = Packed<S>::low(*word), high = Packed<S>::high(*word), found = 0;
  if (low == max) {
    found += 1.0f;
    low = -HUGE_VALF;
  }
  if (Packed<S>::kPerWord == 2 && high == max) {
    found += 1.0f;
    high = -HUGE_VALF;
  }
  if (found > 0) *word = Packed<S>::pack(low, high);
  return found;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
template <>
__device__ inline float take_peaks<BFloat16>(float max, uint32_t* word) {
  // 1 in each half that equals max; times the lowest number, added: x - 3e38 there, x elsewhere.
  const uint32_t high = float_to_bits(max), both = high | high >> 16;
  uint32_t equal;
  asm("set.eq.bf16x2.bf16x2 %0, %1, %2;" : "=r"(equal) : "r"(*word), "r"(both));
  if (equal == 0) return 0.0f;
  asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(*word) : "r"(equal), "r"(0xff7fff7fu));
  return Packed<BFloat16>::low(equal) + Packed<BFloat16>::high(equal);
}
#endif

// As warp_max(), by one instruction; NaN does not count.
__device__ inline float warp_highest(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  // Integers in the order of the floats, -0 below 0.
  const float number = value == value ? value : -HUGE_VALF;
  const int bits = static_cast<int>(float_to_bits(number));
  const int key = bits >= 0 ? bits : bits ^ 0x7fffffff;
  const int top = __reduce_max_sync(kFullWarp, key);
  return bits_to_float(static_cast<uint32_t>(top >= 0 ? top : top ^ 0x7fffffff));
#else
  return warp_max(value);
#endif
}

// What a lane has added up; `max` and `reference` are the warp's.
struct StreamSums {
  float max = -FLT_MAX;
  float reference = 0;
  float peaks = 0;
  float rest[2] = {0, 0};
  float weighted[2] = {0, 0};

  __device__ void add(float x, float scale, int part) {
    const float t = fmaf(x, scale, -reference);
    const float e = exp2_fast(t);
    weighted[part] = fmaf(e, t, weighted[part]);
    rest[part] += e;
  }

  __device__ void raise(float highest, float scale) {
    if (peaks > 0) {
      const float t = fmaf(max, scale, -reference);
      const float mass = peaks * exp2_fast(t);
      rest[0] += mass;
      weighted[0] = fmaf(mass, t, weighted[0]);
      peaks = 0;
    }
    const float next = row_reference(highest, scale);
    const float change = reference_change(reference, next), factor = exp2_fast(change);
    RLHF_UNROLL
    for (int part = 0; part < 2; ++part) {
      weighted[part] = fmaf(rest[part], change, weighted[part]) * factor;
      rest[part] *= factor;
    }
    max = highest;
    reference = next;
  }
};

// As highest_of(), without a chain through all words.
template <typename S, int kSize>
__device__ float highest_of_words(const uint32_t (&words)[kSize]) {
  uint32_t best[4] = {words[0], words[1], words[2], words[3]};
  RLHF_UNROLL
  for (int i = 4; i < kSize; ++i) best[i % 4] = Packed<S>::max(best[i % 4], words[i]);
  const uint32_t all =
      Packed<S>::max(Packed<S>::max(best[0], best[1]), Packed<S>::max(best[2], best[3]));
  return fmaxf(Packed<S>::low(all), Packed<S>::high(all));
}

// Only when a lane has something at or above the warp's maximum is there more to do than to add.
// `words` may be changed.
template <typename S, int kSize>
__device__ void stream_step(uint32_t (&words)[kSize], float scale, StreamSums* sums) {
  const float highest = highest_of_words<S>(words);
  if (__any_sync(kFullWarp, highest >= sums->max)) {
    const float top = warp_highest(highest);
    if (top > sums->max) sums->raise(top, scale);
    if (highest == sums->max) {
      RLHF_UNROLL
      for (int i = 0; i < kSize; ++i) sums->peaks += take_peaks<S>(sums->max, &words[i]);
    }
  }
  RLHF_UNROLL
  for (int i = 0; i < kSize; ++i) {
    const uint32_t word = raise_lowest<S>(words[i]);
    const int part = Packed<S>::kPerWord == 1 ? i % 2 : 0;
    sums->add(raise_lowest_value<S>(Packed<S>::low(word)), scale, part);
    if (Packed<S>::kPerWord == 2) {
      sums->add(raise_lowest_value<S>(Packed<S>::high(word)), scale, 1);
    }
  }
}

}  // namespace rlhf::cuda
