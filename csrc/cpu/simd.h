// Scalar loads and stores of every element type. The vector forms are in vec_<isa>.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor.h"

namespace rlhf::cpu {

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float load(const float* pointer) { return *pointer; }
inline double load(const double* pointer) { return *pointer; }
inline float load(const BFloat16* pointer) {
  return bits_to_float(static_cast<uint32_t>(pointer->bits) << 16);
}
inline float load(const Half* pointer) {
  const uint32_t sign = static_cast<uint32_t>(pointer->bits & 0x8000) << 16;
  const uint32_t body = pointer->bits & 0x7fff;
  if (body >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (body & 0x3ff) << 13);
  // Multiplying by 2^112 rebiases the exponent and normalises subnormals in one step.
  const float magnitude = bits_to_float(body << 13) * bits_to_float(0x77800000);
  return bits_to_float(sign | float_to_bits(magnitude));
}

inline void store(float* pointer, float value) { *pointer = value; }
inline void store(double* pointer, double value) { *pointer = value; }
inline void store(BFloat16* pointer, float value) {
  const uint32_t bits = float_to_bits(value);
  const bool is_nan = value != value;
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  pointer->bits = static_cast<uint16_t>(is_nan ? 0x7fc0 : rounded);
}
inline void store(Half* pointer, float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t body = bits & 0x7fffffff;
  uint32_t half;
  if (body > 0x7f800000) {
    half = 0x7e00;
  } else if (body >= 0x477ff000) {
    half = 0x7c00;  // rounds past 65504
  } else if (body < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded mantissa in the low bits.
    half = float_to_bits(bits_to_float(body) + 0.5f) - 0x3f000000;
  } else {
    half = (body - 0x38000000 + 0xfff + ((body >> 13) & 1)) >> 13;
  }
  pointer->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace rlhf::cpu
