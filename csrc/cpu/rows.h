// Rows of a [N, V] tensor for the row kernels, and the instruction set that serves them.
#pragma once

#include <optional>

#include "cpu/row_table.h"
#include "math/saved_row.h"
#include "tensor.h"

namespace rlhf::cpu {

using math::kSavedColumns;
using math::SavedRow;

inline RowState state_of(const SavedRow& saved) {
  return {saved.max, saved.log_sum, saved.entropy};
}
inline RowState ref_state_of(const SavedRow& saved) {
  return {saved.ref_max, saved.ref_log_sum, 0.0};
}

// The functions for this dtype on this machine; RLHF_KERNELS_ISA overrides (amx,
// avx512bf16, avx512, avx2, baseline).
// Throws std::invalid_argument for a set that is unknown or that the machine lacks.
const RowFunctions& row_functions_for(DType dtype);

// "amx", "avx512bf16", "avx512", "avx2" or "baseline": what row_functions_for would use now.
const char* current_isa();

// Bytes of an element of a floating tensor.
int storage_size(DType dtype);

struct Rows {
  explicit Rows(const TensorView& view);
  void* row(int64_t index) const { return base + index * stride_bytes; }
  void zero(int64_t index) const;

  char* base;
  int64_t count;
  int64_t vocab;
  int64_t stride_bytes;
  int64_t row_bytes;
};

struct Targets {
  explicit Targets(const TensorView& view) : view(view) {}
  int64_t operator[](int64_t row) const {
    return view.dtype == DType::kInt32 ? view.as<int32_t>()[row] : view.as<int64_t>()[row];
  }
  TensorView view;
};

// An optional bool [N]; without it every row counts.
struct RowMask {
  explicit RowMask(const std::optional<TensorView>& view)
      : bits(view ? view->as<bool>() : nullptr) {}
  bool operator[](int64_t row) const { return bits == nullptr || bits[row]; }
  const bool* bits;
};

// One temperature for all rows, or a float32 or float64 [N].
struct Temperatures {
  Temperatures(const std::optional<TensorView>& view, double common)
      : view(view), inverse(1.0 / common) {}
  double inverse_of(int64_t row) const {
    if (!view) return inverse;
    return 1.0 / (view->dtype == DType::kFloat64 ? view->as<double>()[row]
                                                 : static_cast<double>(view->as<float>()[row]));
  }
  std::optional<TensorView> view;
  double inverse;
};

// log p of one entry of a row.
inline double logprob_of(const RowFunctions& functions, const RowArgs& args, const RowState& state,
                         int64_t index) {
  const double x = functions.logit(args.row, index);
  return (x - state.max) * args.inverse_temperature - state.log_sum;
}

// Write d loss / d row for a saved row times `scale`; zeros where the row does not count.
void write_gradient(const RowFunctions& functions, const Rows& logits, const Rows* ref_logits,
                    int64_t row, int64_t target, const SavedRow& saved, double scale,
                    const Rows& out);

}  // namespace rlhf::cpu
