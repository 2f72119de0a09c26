// The row kernels for AVX-512 (F, DQ, BW, VL), and with its bfloat16 conversion where the machine
// has that. This file alone is compiled for them.
#include <math.h>
#include <stdint.h>

#include "cpu/row_table.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace rlhf::cpu {
namespace {

#include "cpu/vec_common.h"

struct Avx512 : FloatScalars {
  using V = __m512;
  static constexpr int kWidth = 16;

  static V set(double value) { return _mm512_set1_ps(static_cast<float>(value)); }
  static V load(const float* pointer) { return _mm512_loadu_ps(pointer); }
  static V load(const Bf16* pointer) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pointer));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static V load(const Fp16* pointer) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pointer)));
  }
  static void load_even_odd(const Bf16* pointer, V* even, V* odd) {
    const __m512i both = _mm512_loadu_si512(pointer);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(~0xffff)));
  }
  static void store(float* pointer, V value) { _mm512_storeu_ps(pointer, value); }
  static void store(Bf16* pointer, V value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    // Rounding could carry a NaN to zero, and the upper half of a signalling one may be infinity.
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i sum = _mm512_add_epi32(bits, bias);
    const __m512i rounded = _mm512_mask_mov_epi32(sum, nan, _mm512_set1_epi32(0x7fc00000));
    const __m512i upper_halves =
        _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x001f001d, 0x001b0019, 0x00170015, 0x00130011,
                         0x000f000d, 0x000b0009, 0x00070005, 0x00030001);
    const __m512i packed = _mm512_permutexvar_epi16(upper_halves, rounded);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pointer), _mm512_castsi512_si256(packed));
  }
  static void store(Fp16* pointer, V value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pointer),
                        _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  // The second operand wins when either is NaN.
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V bounded(V t) { return _mm512_max_ps(set(-200.0), t); }
  static V exp2(V t) {
    const V f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    V p = _mm512_set1_ps(kExp2C6);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C5));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C4));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C1));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);  // p 2^floor(t), 0 below 2^-149
  }
  static V absolute(V a) { return _mm512_abs_ps(a); }
  static V select_less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static V select_nan(V a, V yes, V no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), no, yes);
  }
  static V floor(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF); }
  static bool any_from(V a, V bound) { return _mm512_cmp_ps_mask(a, bound, _CMP_GE_OQ) != 0; }
  static double sum(V a) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
  }
  static double highest(V a) { return _mm512_reduce_max_ps(a); }
};

// Rounds to bfloat16 in one instruction; a subnormal becomes 0.
struct Avx512Bf16 : Avx512 {
  using Avx512::store;
  static void store(Bf16* pointer, V value) {
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pointer), bits);
  }
  struct Pairs {
    __m512bh both;
    static Pairs load(const Bf16* pairs) {
      return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(pairs))};
    }
    static Pairs set(uint32_t bits) {
      return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(bits)))};
    }
    static V add(V sum, const Pairs& a, const Pairs& b) {
      return _mm512_dpbf16_ps(sum, a.both, b.both);
    }
  };
};

#include "cpu/row_body.h"

}  // namespace

const RowTable kRowTableAvx512 = {
    "avx512",
    {row_functions<Avx512, float>(), row_functions<Avx512, Bf16>(), row_functions<Avx512, Fp16>()}};

const RowTable kRowTableAvx512Bf16 = {
    "avx512bf16",
    {row_functions<Avx512, float>(), row_functions<Avx512Bf16, Bf16>(),
     row_functions<Avx512, Fp16>()}};

}  // namespace rlhf::cpu
#endif
