// The contract that every op over [N, V] logits shares.
#include "ops/row_checks.h"

#include "cpu/rows.h"
#include "ops/device.h"

namespace rlhf::ops {
namespace {

bool counts(const std::optional<TensorView>& mask, const std::optional<TensorView>& second,
            int64_t row) {
  if (!mask) return true;
  return mask->as<bool>()[row] || (second && second->as<bool>()[row]);
}

template <typename Counts>
void check_each_target(const char* op, const TensorView& targets, const TensorView& logits,
                       const Counts& row_counts) {
  check_dtype(op, "targets", targets, {DType::kInt64, DType::kInt32});
  check_shape(op, "targets", targets, {logits.shape[0]});
  check_contiguous(op, "targets", targets);
  check_same_device(op, "targets", targets, "logits", logits);
  if (targets.device != Device::kCpu) return;  // there, the row's results are NaN
  const cpu::Targets ids(targets);
  for (int64_t row = 0; row < logits.shape[0]; ++row) {
    if ((ids[row] >= 0 && ids[row] < logits.shape[1]) || !row_counts(row)) continue;
    fail(op, "targets",
         "must lie in [0, " + std::to_string(logits.shape[1]) + ") on rows that count, got " +
             std::to_string(ids[row]) + " at row " + std::to_string(row) +
             "; mask that row or correct the id");
  }
}

}  // namespace

void check_logits(const char* op, const char* argument, const TensorView& logits) {
  check_floating(op, argument, logits);
  if (logits.ndim != 2) {
    fail(op, argument, "must be [N, V], got " + shape_text(logits) + "; call .flatten(0, -2)");
  }
  if (logits.shape[1] < 1) fail(op, argument, "must have V >= 1, got " + shape_text(logits));
  if (logits.shape[0] > 0 && logits.shape[1] > 1 && logits.strides[1] != 1) {
    fail(op, argument,
         "must have its vocabulary consecutive in memory (last stride 1), got stride " +
             std::to_string(logits.strides[1]) + "; call .contiguous()");
  }
  check_device(op, argument, logits);
}

void check_ref_logits(const char* op, const TensorView& ref_logits, const TensorView& logits) {
  check_logits(op, "ref_logits", ref_logits);
  check_shape(op, "ref_logits", ref_logits, {logits.shape[0], logits.shape[1]});
  check_dtype(op, "ref_logits", ref_logits, {logits.dtype});
  check_same_device(op, "ref_logits", ref_logits, "logits", logits);
}

void check_row_values(const char* op, const char* argument, const TensorView& values,
                      const TensorView& logits) {
  check_dtype(op, argument, values, {result_dtype(logits.dtype)});
  check_shape(op, argument, values, {logits.shape[0]});
  check_contiguous(op, argument, values);
  check_same_device(op, argument, values, "logits", logits);
}

void check_row_mask(const char* op, const char* argument, const std::optional<TensorView>& mask,
                    const TensorView& logits) {
  if (!mask) return;
  check_dtype(op, argument, *mask, {DType::kBool});
  check_shape(op, argument, *mask, {logits.shape[0]});
  check_contiguous(op, argument, *mask);
  check_same_device(op, argument, *mask, "logits", logits);
}

void check_targets(const char* op, const TensorView& targets, const TensorView& logits,
                   const std::optional<TensorView>& mask,
                   const std::optional<TensorView>& second_mask) {
  check_each_target(op, targets, logits,
                    [&](int64_t row) { return counts(mask, second_mask, row); });
}

void check_saved_targets(const char* op, const TensorView& targets, const TensorView& rows,
                         const TensorView& logits) {
  const cpu::SavedRow* saved = rows.as<cpu::SavedRow>();  // read on the CPU alone
  check_each_target(op, targets, logits,
                    [&](int64_t row) { return saved[row].inverse_temperature != 0.0; });
}

void check_temperature(const char* op, double temperature,
                       const std::optional<TensorView>& temperatures, const TensorView& logits,
                       const std::optional<TensorView>& mask,
                       const std::optional<TensorView>& second_mask) {
  if (!temperatures) {
    return check_finite(op, "temperature", temperature, kMinTemperature, 1e30, "at least 0.0001");
  }
  check_dtype(op, "temperature", *temperatures, {DType::kFloat32, DType::kFloat64});
  check_shape(op, "temperature", *temperatures, {logits.shape[0]});
  check_contiguous(op, "temperature", *temperatures);
  check_same_device(op, "temperature", *temperatures, "logits", logits);
  if (temperatures->device != Device::kCpu) return;  // there, the row's results are NaN
  const cpu::Temperatures values(temperatures, 1.0);
  for (int64_t row = 0; row < logits.shape[0]; ++row) {
    if (!counts(mask, second_mask, row)) continue;
    check_finite(op, "temperature", 1.0 / values.inverse_of(row), kMinTemperature * (1 - 1e-6),
                 1e30, "at least 0.0001 on every row that counts");
  }
}

void check_gradient_out(const char* op, const char* argument, const TensorView& out,
                        const TensorView& logits) {
  check_dtype(op, argument, out, {logits.dtype});
  check_shape(op, argument, out, {logits.shape[0], logits.shape[1]});
  check_same_device(op, argument, out, "logits", logits);
  if (out.shape[0] > 1 && out.strides[0] < out.shape[1]) {
    fail(op, argument, "must not have overlapping rows to be written to; call .contiguous()");
  }
}

void check_saved(const char* op, const TensorView& rows, const TensorView& logits) {
  check_dtype(op, "rows", rows, {DType::kFloat64});
  check_shape(op, "rows", rows, {logits.shape[0], cpu::kSavedColumns});
  check_contiguous(op, "rows", rows);
  check_same_device(op, "rows", rows, "logits", logits);
}

}  // namespace rlhf::ops
