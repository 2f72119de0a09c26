// What every fp32 vector type shares: element types, scalar conversions, polynomial constants.
// Included inside an anonymous namespace; see row_body.h for why nothing else may be.

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

template <typename S>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<Bf16> = true;

// 2^f on [0, 1): minimax of degree 6 with p(0) = 1 exactly; relative error 2e-9 before rounding.
constexpr float kExp2C1 = 0x1.62e42cp-1f;
constexpr float kExp2C2 = 0x1.ebfd58p-3f;
constexpr float kExp2C3 = 0x1.c68912p-5f;
constexpr float kExp2C4 = 0x1.3d0b92p-7f;
constexpr float kExp2C5 = 0x1.46d64ep-10f;
constexpr float kExp2C6 = 0x1.c54174p-13f;

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t body = half & 0x7fff;
  if (body >= 0x7c00) return from_bits(sign | 0x7f800000 | (body & 0x3ff) << 13);
  // Multiplying by 2^112 rebiases the exponent and normalises subnormals in one step.
  return from_bits(sign | to_bits(from_bits(body << 13) * from_bits(0x77800000)));
}

inline uint16_t float_to_half(float value) {
  const uint32_t bits = to_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000, body = bits & 0x7fffffff;
  uint32_t half;
  if (body > 0x7f800000) {
    half = 0x7e00;
  } else if (body >= 0x477ff000) {
    half = 0x7c00;  // rounds past 65504
  } else if (body < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded mantissa in the low bits.
    half = to_bits(from_bits(body) + 0.5f) - 0x3f000000;
  } else {
    half = (body - 0x38000000 + 0xfff + ((body >> 13) & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = to_bits(value);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct FloatScalars {
  using Lane = float;
  static constexpr int kSeriesTerms = 9;
  // 1/2!, 1/3!, ...: the series of (expm1(d) - d) / d^2 for |d| < 1.
  static constexpr double kInverseFactorial[kSeriesTerms] = {
      1.0 / 2,    1.0 / 6,     1.0 / 24,     1.0 / 120,    1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800};

  static double round(double value) { return static_cast<float>(value); }
  static double scalar(const float* pointer) { return *pointer; }
  static double scalar(const Bf16* pointer) {
    return from_bits(static_cast<uint32_t>(pointer->bits) << 16);
  }
  static double scalar(const Fp16* pointer) { return half_to_float(pointer->bits); }
  static void store_scalar(float* pointer, double value) { *pointer = static_cast<float>(value); }
  static void store_scalar(Bf16* pointer, double value) {
    pointer->bits = float_to_bfloat(static_cast<float>(value));
  }
  static void store_scalar(Fp16* pointer, double value) {
    pointer->bits = float_to_half(static_cast<float>(value));
  }
  static float minus_infinity(const float*) { return -HUGE_VALF; }
  static Bf16 minus_infinity(const Bf16*) { return {0xff80}; }
  static Fp16 minus_infinity(const Fp16*) { return {0xfc00}; }
};
