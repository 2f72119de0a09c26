// The contract that every op over [N, V] logits shares.
//
// Every tensor must be on the logits' device. What asks for values (targets, temperatures) is
// checked on the CPU alone: reading them on a GPU would wait for it, so there a row with a bad
// value has NaN results, and nothing is read out of bounds.
#pragma once

#include <optional>
#include <string>

#include "check.h"
#include "tensor.h"

namespace rlhf::ops {

// Below this the logits' differences are multiplied past what fp32 holds.
constexpr double kMinTemperature = 1e-4;

// [N, V] with V >= 1, floating, consecutive elements in a row; any distance between rows.
void check_logits(const char* op, const char* argument, const TensorView& logits);

// Same shape and dtype as the logits, same layout rule.
void check_ref_logits(const char* op, const TensorView& ref_logits, const TensorView& logits);

// [N] in the result dtype (log-probs are never held in 16 bits), contiguous.
void check_row_values(const char* op, const char* argument, const TensorView& values,
                      const TensorView& logits);

// bool [N], contiguous.
void check_row_mask(const char* op, const char* argument, const std::optional<TensorView>& mask,
                    const TensorView& logits);

// int32 or int64 [N]; in [0, V) where one of the masks is True (or there is none).
void check_targets(const char* op, const TensorView& targets, const TensorView& logits,
                   const std::optional<TensorView>& mask,
                   const std::optional<TensorView>& second_mask = std::nullopt);

// One positive temperature, or float32/float64 [N] of them where a row counts.
void check_temperature(const char* op, double temperature,
                       const std::optional<TensorView>& temperatures, const TensorView& logits,
                       const std::optional<TensorView>& mask,
                       const std::optional<TensorView>& second_mask = std::nullopt);

// An output as Python allocated it: the logits' shape and dtype, rows not overlapping.
void check_gradient_out(const char* op, const char* argument, const TensorView& out,
                        const TensorView& logits);

// float64 [N, kSavedColumns].
void check_saved(const char* op, const TensorView& rows, const TensorView& logits);

// The backward pass's targets: in [0, V) on the rows that counted in the forward pass.
void check_saved_targets(const char* op, const TensorView& targets, const TensorView& rows,
                         const TensorView& logits);

}  // namespace rlhf::ops
