// Reading and writing the vectors of a row.
//
// Vector v holds the elements [v * kPack, (v + 1) * kPack) in four 32-bit words (vector.cuh says
// why by position). A row that does not begin on a 16-byte boundary has its vectors put together
// from two aligned granules each; the shift is the same for the whole row. Only granules that lie
// inside the row are read.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace rlhf::cuda {

constexpr int kWords = 4;  // of a vector

// The larger of a and b; a NaN in `a` stays.
__device__ inline float max_keep_nan(float a, float b) {
#ifdef __CUDA_ARCH__
  float value;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
  return value;
#else
  return a != a || a > b ? a : b;
#endif
}

// How the elements of a type lie in a word: `low` comes first in memory. max() drops NaN.
template <typename S>
struct Packed;

template <>
struct Packed<float> {
  static constexpr int kPerWord = 1;
  static constexpr uint32_t kMinusInfinity = 0xff800000u;
  __device__ static float low(uint32_t word) { return bits_to_float(word); }
  __device__ static float high(uint32_t word) { return bits_to_float(word); }
  __device__ static uint32_t pack(float low, float) { return float_to_bits(low); }
  __device__ static uint32_t max(uint32_t a, uint32_t b) {
    return float_to_bits(fmaxf(bits_to_float(a), bits_to_float(b)));
  }
};

template <typename S>
struct PackedPair {
  static constexpr int kPerWord = 2;
  __device__ static S half_of(uint32_t word, int shift) {
    return S{static_cast<uint16_t>(word >> shift)};
  }
  __device__ static uint32_t pack_each(float low, float high) {
    S first, second;
    from_float(low, &first);
    from_float(high, &second);
    return static_cast<uint32_t>(second.bits) << 16 | first.bits;
  }
  __device__ static uint32_t max_each(uint32_t a, uint32_t b) {
    return pack_each(fmaxf(to_float(half_of(a, 0)), to_float(half_of(b, 0))),
                     fmaxf(to_float(half_of(a, 16)), to_float(half_of(b, 16))));
  }
};

template <>
struct Packed<BFloat16> : PackedPair<BFloat16> {
  static constexpr uint32_t kMinusInfinity = 0xff80ff80u;
  __device__ static float low(uint32_t word) { return bits_to_float(word << 16); }
  __device__ static float high(uint32_t word) { return bits_to_float(word & 0xffff0000u); }
  __device__ static uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return pack_each(low, high);
#endif
  }
  __device__ static uint32_t max(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return max_each(a, b);
#endif
  }
};

template <>
struct Packed<Half> : PackedPair<Half> {
  static constexpr uint32_t kMinusInfinity = 0xfc00fc00u;
  __device__ static float low(uint32_t word) { return to_float(half_of(word, 0)); }
  __device__ static float high(uint32_t word) { return to_float(half_of(word, 16)); }
  __device__ static uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return pack_each(low, high);
#endif
  }
  __device__ static uint32_t max(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return max_each(a, b);
#endif
  }
};

__device__ inline void store_words(const uint4& granule, uint32_t* words) {
  words[0] = granule.x;
  words[1] = granule.y;
  words[2] = granule.z;
  words[3] = granule.w;
}

// Vectors, the last one perhaps partial, and the warp's contiguous share of them.
struct VectorRange {
  int begin;
  int end;
};

template <typename S>
__device__ int vector_count(int elements) {
  return (elements + kPack<S> - 1) / kPack<S>;
}

__device__ inline VectorRange range_of_warp(int vectors, int warp, int warps) {
  const int share = (vectors + warps - 1) / warps;
  const int begin = share * warp < vectors ? share * warp : vectors;
  return {begin, begin + share < vectors ? begin + share : vectors};
}

// kCount vectors, 32 apart, the first one kSkip words and (phase % 4) bytes into a granule.
template <typename S, int kSkip, int kCount>
__device__ void read_straddling(const uint4* granules, int vector, int phase,
                                uint32_t (&words)[kCount * kWords]) {
  const unsigned shift = static_cast<unsigned>(phase % 4) * 8;
  RLHF_UNROLL
  for (int u = 0; u < kCount; ++u) {
    const int v = vector + u * kWarpSize;
    const uint4 low = granules[v], high = granules[v + 1];
    const uint32_t both[2 * kWords] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    RLHF_UNROLL
    for (int i = 0; i < kWords; ++i) {
      words[u * kWords + i] = sizeof(S) == 4
                                  ? both[kSkip + i]
                                  : __funnelshift_r(both[kSkip + i], both[kSkip + i + 1], shift);
    }
  }
}

// kCount vectors, 32 apart, of what begins `phase` bytes into granule 0; the lane's first is
// `vector`. The granules lie in global or in shared memory.
template <typename S, int kCount>
__device__ void read_vectors(const uint4* granules, int vector, int phase,
                             uint32_t (&words)[kCount * kWords]) {
  if (phase == 0) {
    RLHF_UNROLL
    for (int u = 0; u < kCount; ++u) {
      store_words(granules[vector + u * kWarpSize], words + u * kWords);
    }
    return;
  }
  switch (phase / 4) {
    case 0:
      return read_straddling<S, 0, kCount>(granules, vector, phase, words);
    case 1:
      return read_straddling<S, 1, kCount>(granules, vector, phase, words);
    case 2:
      return read_straddling<S, 2, kCount>(granules, vector, phase, words);
    default:
      return read_straddling<S, 3, kCount>(granules, vector, phase, words);
  }
}

// A row, or the part of one from an element on, as vectors.
template <typename S>
struct RowReader {
  const S* row;
  const uint4* granules;  // from the one in which the row begins
  int elements;
  int first;  // the vectors [first, last) lie in granules that are inside the row
  int last;
  int phase;  // bytes from the first granule's begin to the row's

  __device__ RowReader(const S* begin, int count) : row(begin), elements(count) {
    phase = static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16);
    // From the pointer, not from its number, so that the compiler knows whose memory it is.
    granules = reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(begin) - phase);
    const int inside = static_cast<int>((phase + count * static_cast<int64_t>(sizeof(S))) / 16);
    first = phase == 0 ? 0 : 1;
    last = phase == 0 ? inside : inside - 1;
  }

  __device__ void aligned(int vector, uint32_t* words) const {
    store_words(granules[vector], words);
  }

  // Element by element: the vectors at the row's ends. What lies outside is -inf.
  __device__ void elementwise(int vector, uint32_t* words) const {
    constexpr int kPerWord = Packed<S>::kPerWord;
    for (int i = 0; i < kWords; ++i) {
      words[i] = Packed<S>::kMinusInfinity;
      const int index = vector * kPack<S> + i * kPerWord;
      if (index < elements) put<S>(row[index], 0, &words[i]);
      if (kPerWord == 2 && index + 1 < elements) put<S>(row[index + 1], 16, &words[i]);
    }
  }

  // kCount vectors, 32 apart, of which the lane's first is `vector`.
  template <int kCount>
  __device__ void read_inside(int vector, uint32_t (&words)[kCount * kWords]) const {
    read_vectors<S, kCount>(granules, vector, phase, words);
  }

  // The same where some may reach past the granules, or past `end`, where all is -inf.
  template <int kCount>
  __device__ void read_guarded(int vector, int end, uint32_t (&words)[kCount * kWords]) const {
    RLHF_UNROLL
    for (int u = 0; u < kCount; ++u) {
      const int v = vector + u * kWarpSize;
      uint32_t one[kWords] = {Packed<S>::kMinusInfinity, Packed<S>::kMinusInfinity,
                              Packed<S>::kMinusInfinity, Packed<S>::kMinusInfinity};
      if (v < end && v >= first && v < last) {
        read_inside<1>(v, one);
      } else if (v < end) {
        elementwise(v, one);
      }
      RLHF_UNROLL
      for (int i = 0; i < kWords; ++i) words[u * kWords + i] = one[i];
    }
  }

  // The warp reads kCount * 32 vectors from `vector` on; lanes take consecutive ones.
  template <int kCount>
  __device__ void read(int vector, int end, uint32_t (&words)[kCount * kWords]) const {
    const int mine = vector + lane_index();
    if (vector >= first && vector + kCount * kWarpSize <= (end < last ? end : last)) {
      read_inside<kCount>(mine, words);
    } else {
      read_guarded<kCount>(mine, end, words);
    }
  }

 private:
  template <typename Element>
  __device__ static void put(Element value, int shift, uint32_t* word) {
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof(value));
    if (sizeof(Element) == 4) {
      *word = bits;
    } else {
      *word = (*word & ~(0xffffu << shift)) | bits << shift;
    }
  }
};

}  // namespace rlhf::cuda
