// Elements and 16-byte vectors of a row, whatever its alignment.
//
// A row is cut into vectors by position: vector v holds the elements [v * kPack, (v + 1) * kPack).
// V = 50257 in 16 bits gives every row another alignment, and a sum's order must not depend on it.
// So a vector that straddles two aligned 16-byte granules is put together from both; a granule that
// reaches past the row's ends is never read, its vector is taken element by element.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "tensor.h"

namespace rlhf::cuda {

template <typename S>
constexpr int kPack = 16 / static_cast<int>(sizeof(S));

__device__ inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

__device__ inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(BFloat16 x) {
  return bits_to_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ inline float to_float(Half x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t body = x.bits & 0x7fff;
  if (body >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (body & 0x3ff) << 13);
  // Multiplying by 2^112 rebiases the exponent and normalises subnormals in one step.
  const float magnitude = bits_to_float(body << 13) * bits_to_float(0x77800000);
  return bits_to_float(sign | float_to_bits(magnitude));
#endif
}

__device__ inline void from_float(float value, float* out) { *out = value; }
__device__ inline void from_float(float value, BFloat16* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out->bits = static_cast<uint16_t>(value != value ? 0x7fff : rounded);
#endif
}
__device__ inline void from_float(float value, Half* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t body = bits & 0x7fffffff;
  uint32_t half;
  if (body > 0x7f800000) {
    half = 0x7fff;
  } else if (body >= 0x477ff000) {
    half = 0x7c00;  // rounds past 65504
  } else if (body < 0x38800000) {
    half = float_to_bits(bits_to_float(body) + 0.5f) - 0x3f000000;
  } else {
    half = (body - 0x38000000 + 0xfff + ((body >> 13) & 1)) >> 13;
  }
  out->bits = static_cast<uint16_t>(((bits >> 16) & 0x8000) | half);
#endif
}

// Asks for what lies there, and does not wait.
__device__ inline void prefetch(const void* address) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L1 [%0];" ::"l"(__cvta_generic_to_global(address)));
#else
  __builtin_prefetch(address);
#endif
}

// 2^x; what is below the smallest normal number becomes 0.
__device__ inline float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
#else
  return std::exp2(x);
#endif
}

}  // namespace rlhf::cuda
