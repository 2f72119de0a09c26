// The row kernels without any instruction-set extension (four-lane vectors of the compiler), and
// the float64 kernels, which every table uses.
#include <math.h>
#include <stdint.h>

#include "cpu/row_table.h"

namespace rlhf::cpu {
namespace {

#include "cpu/vec_common.h"

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

struct Portable : FloatScalars {
  using V = Float4;
  static constexpr int kWidth = 4;

  static V set(double value) {
    const float x = static_cast<float>(value);
    return V{x, x, x, x};
  }
  static V load(const float* pointer) {
    V value;
    __builtin_memcpy(&value, pointer, sizeof(value));
    return value;
  }
  template <typename S>
  static V load(const S* pointer) {
    V value;
    for (int lane = 0; lane < kWidth; ++lane) {
      value[lane] = static_cast<float>(scalar(pointer + lane));
    }
    return value;
  }
  static void load_even_odd(const Bf16* pointer, V* even, V* odd) {
    Int4 both;
    __builtin_memcpy(&both, pointer, sizeof(both));
    const Int4 low = both << 16, high = both & ~0xffff;
    __builtin_memcpy(even, &low, sizeof(low));
    __builtin_memcpy(odd, &high, sizeof(high));
  }
  static void store(float* pointer, V value) { __builtin_memcpy(pointer, &value, sizeof(value)); }
  template <typename S>
  static void store(S* pointer, V value) {
    for (int lane = 0; lane < kWidth; ++lane) store_scalar(pointer + lane, value[lane]);
  }

  // The second operand wins when either is NaN.
  static V max(V a, V b) { return a > b ? a : b; }
  static V bounded(V t) { return max(set(-127.0), t); }
  static V exp2(V t) {
    const V truncated = __builtin_convertvector(__builtin_convertvector(t, Int4), V);
    const V floor = truncated > t ? truncated - set(1.0) : truncated;
    const V f = t - floor;
    V p = f * set(kExp2C6) + set(kExp2C5);
    p = p * f + set(kExp2C4);
    p = p * f + set(kExp2C3);
    p = p * f + set(kExp2C2);
    p = p * f + set(kExp2C1);
    p = p * f + set(1.0);
    // Exponent bits 0 at t = -127, the bound: exactly 0 there.
    const Int4 exponent = (__builtin_convertvector(floor, Int4) + 127) << 23;
    V power;
    __builtin_memcpy(&power, &exponent, sizeof(power));
    return p * power;
  }
  static V absolute(V a) { return a < set(0.0) ? -a : a; }
  static V select_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static V select_nan(V a, V yes, V no) { return a != a ? yes : no; }
  // For a >= 0; what fp32 holds from 2^23 on is whole already.
  static V floor(V a) {
    const V whole = set(8388608.0), small = a < whole ? a : whole;
    return a < whole ? __builtin_convertvector(__builtin_convertvector(small, Int4), V) : a;
  }
  static bool any_from(V a, V bound) {
    const Int4 from = a >= bound;
    return (from[0] | from[1] | from[2] | from[3]) != 0;
  }
  static double sum(V a) {
    return (static_cast<double>(a[0]) + a[1]) + (static_cast<double>(a[2]) + a[3]);
  }
  static double highest(V a) {
    const float low = a[0] > a[1] ? a[0] : a[1], high = a[2] > a[3] ? a[2] : a[3];
    return low > high ? low : high;
  }
};

struct Double {
  using V = double;
  using Lane = double;
  static constexpr int kWidth = 1;
  static constexpr int kSeriesTerms = 18;
  static constexpr double kInverseFactorial[kSeriesTerms] = {1.0 / 2,
                                                             1.0 / 6,
                                                             1.0 / 24,
                                                             1.0 / 120,
                                                             1.0 / 720,
                                                             1.0 / 5040,
                                                             1.0 / 40320,
                                                             1.0 / 362880,
                                                             1.0 / 3628800,
                                                             1.0 / 39916800,
                                                             1.0 / 479001600,
                                                             1.0 / 6227020800,
                                                             1.0 / 87178291200,
                                                             1.0 / 1307674368000,
                                                             1.0 / 20922789888000,
                                                             1.0 / 355687428096000,
                                                             1.0 / 6402373705728000,
                                                             1.0 / 121645100408832000};

  static double round(double value) { return value; }
  static double scalar(const double* pointer) { return *pointer; }
  static void store_scalar(double* pointer, double value) { *pointer = value; }
  static double minus_infinity(const double*) { return -HUGE_VAL; }
  static V set(double value) { return value; }
  static V load(const double* pointer) { return *pointer; }
  static void store(double* pointer, V value) { *pointer = value; }
  static V max(V a, V b) { return a > b ? a : b; }
  static V bounded(V t) { return max(-1080.0, t); }
  static V exp2(V t) { return ::exp2(t); }
  static V absolute(V a) { return fabs(a); }
  static V select_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static V select_nan(V a, V yes, V no) { return a != a ? yes : no; }
  static V floor(V a) { return ::floor(a); }
  static bool any_from(V a, V bound) { return a >= bound; }
  static double sum(V a) { return a; }
  static double highest(V a) { return a; }
};

#include "cpu/row_body.h"

}  // namespace

const RowTable kRowTableBaseline = {
    "baseline",
    {row_functions<Portable, float>(), row_functions<Portable, Bf16>(),
     row_functions<Portable, Fp16>(), row_functions<Double, double>()}};

}  // namespace rlhf::cpu
