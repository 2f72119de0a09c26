// The row kernels for AVX2 with FMA and F16C. This file alone is compiled for it.
#include <math.h>
#include <stdint.h>

#include "cpu/row_table.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace rlhf::cpu {
namespace {

#include "cpu/vec_common.h"

struct Avx2 : FloatScalars {
  using V = __m256;
  static constexpr int kWidth = 8;

  static V set(double value) { return _mm256_set1_ps(static_cast<float>(value)); }
  static V load(const float* pointer) { return _mm256_loadu_ps(pointer); }
  static V load(const Bf16* pointer) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pointer));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static V load(const Fp16* pointer) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pointer)));
  }
  static void load_even_odd(const Bf16* pointer, V* even, V* odd) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pointer));
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(~0xffff)));
  }
  static void store(float* pointer, V value) { _mm256_storeu_ps(pointer, value); }
  static void store(Bf16* pointer, V value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pointer), _mm256_castsi256_si128(packed));
  }
  static void store(Fp16* pointer, V value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pointer),
                     _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  // The second operand wins when either is NaN.
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V bounded(V t) { return _mm256_max_ps(set(-127.0), t); }
  static V exp2(V t) {
    const V floor = _mm256_floor_ps(t);
    const V f = _mm256_sub_ps(t, floor);
    V p = _mm256_set1_ps(kExp2C6);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C5));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C4));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C3));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C2));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C1));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    // Exponent bits 0 at t = -127, the bound: exactly 0 there.
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static V absolute(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static V select_less(V a, V b, V yes, V no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static V select_nan(V a, V yes, V no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static V floor(V a) { return _mm256_floor_ps(a); }
  static bool any_from(V a, V bound) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, bound, _CMP_GE_OQ)) != 0;
  }
  static double sum(V a) {
    const __m256d both = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                                       _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(half) + _mm_cvtsd_f64(_mm_unpackhi_pd(half, half));
  }
  static double highest(V a) {
    float lanes[kWidth];
    _mm256_storeu_ps(lanes, a);
    float best = lanes[0];
    for (int lane = 1; lane < kWidth; ++lane) best = lanes[lane] > best ? lanes[lane] : best;
    return best;
  }
};

#include "cpu/row_body.h"

}  // namespace

const RowTable kRowTableAvx2 = {
    "avx2",
    {row_functions<Avx2, float>(), row_functions<Avx2, Bf16>(), row_functions<Avx2, Fp16>()}};

}  // namespace rlhf::cpu
#endif
