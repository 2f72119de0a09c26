// What the masked token losses ask of their arguments.
#pragma once

#include <limits>

#include "check.h"
#include "ops.h"
#include "ops/device.h"

namespace rlhf::ops {

struct NamedView {
  const char* name;
  const TensorView& view;
};

// `first` fixes shape, dtype (fp32 or fp64) and device; the rest and the mask follow it.
inline void check_tokens(const char* op, NamedView first, std::initializer_list<NamedView> rest,
                         const TensorView& mask) {
  check_dtype(op, first.name, first.view, {DType::kFloat32, DType::kFloat64});
  check_contiguous(op, first.name, first.view);
  check_device(op, first.name, first.view);
  for (const NamedView& other : rest) {
    check_like(op, other.name, other.view, first.name, first.view);
  }
  check_mask(op, "mask", mask, first.name, first.view);
}

inline void check_not_negative(const char* op, const char* argument, double value) {
  check_finite(op, argument, value, 0.0, std::numeric_limits<double>::max(),
               "finite and not negative");
}

// What the sum over the call is divided by; without one, the call's own count.
inline void check_denominator(const char* op, const OptionalView& denominator, NamedView first) {
  if (!denominator) return;
  check_dtype(op, "denominator", *denominator, {DType::kFloat64});
  check_shape(op, "denominator", *denominator, {});
  check_same_device(op, "denominator", *denominator, first.name, first.view);
}

// For the CPU column; on a device its kernel reads the value.
inline std::optional<double> read_denominator(const char* op, const OptionalView& denominator) {
  if (!denominator) return std::nullopt;
  const double value = *denominator->as<double>();
  check_not_negative(op, "denominator", value);
  return value;
}

inline const double* denominator_pointer(const OptionalView& denominator) {
  return denominator ? denominator->as<const double>() : nullptr;
}

}  // namespace rlhf::ops
