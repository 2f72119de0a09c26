// ranking_loss: contract and dispatch.
#include "cpu/ranking_loss.h"

#include "cuda/ranking_loss.h"
#include "ops/token_loss.h"

namespace rlhf::ops {
namespace {

void check_index(const char* op, const char* argument, const TensorView& index,
                 const TensorView& scores) {
  check_dtype(op, argument, index, {DType::kInt64});
  check_contiguous(op, argument, index);
  check_same_device(op, argument, index, "scores", scores);
}

void check_inputs(const char* op, const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets) {
  check_dtype(op, "scores", scores, {DType::kFloat32, DType::kFloat64});
  if (scores.ndim != 1) {
    fail(op, "scores", "must have one dimension [N], got " + shape_text(scores));
  }
  check_contiguous(op, "scores", scores);
  check_device(op, "scores", scores);
  check_index(op, "ranks", ranks, scores);
  check_shape(op, "ranks", ranks, {scores.shape[0]});
  check_index(op, "group_offsets", group_offsets, scores);
  if (group_offsets.ndim != 1 || group_offsets.shape[0] < 1) {
    fail(op, "group_offsets",
         "must have shape [G + 1] with at least one entry, got " + shape_text(group_offsets));
  }
}

// What only the CPU can look at without waiting for a device.
void check_entries(const char* op, const TensorView& ranks, const TensorView& group_offsets) {
  const int64_t scores = ranks.shape[0];
  const int64_t* rank = ranks.as<int64_t>();
  for (int64_t i = 0; i < scores; ++i) {
    if (rank[i] < 1) {
      fail(op, "ranks",
           "must be 1 (best) or more, but entry " + std::to_string(i) + " is " +
               std::to_string(rank[i]));
    }
  }
  const int64_t* offset = group_offsets.as<int64_t>();
  const int64_t groups = group_offsets.shape[0] - 1;
  if (offset[0] != 0 || offset[groups] != scores) {
    fail(op, "group_offsets",
         "must start at 0 and end at the number of scores, " + std::to_string(scores) + ", got " +
             std::to_string(offset[0]) + " and " + std::to_string(offset[groups]));
  }
  for (int64_t g = 0; g < groups; ++g) {
    if (offset[g + 1] < offset[g]) {
      fail(op, "group_offsets",
           "must not decrease, but entry " + std::to_string(g + 1) + " is " +
               std::to_string(offset[g + 1]) + " after " + std::to_string(offset[g]));
    }
  }
}

}  // namespace

void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, const std::string& ties,
                  const OptionalView& denominator, const TensorView& loss, const TensorView& stats,
                  const TensorView& score_grad, const TensorView& scale,
                  const OptionalView& workspace) {
  const char* op = "ranking_loss";
  check_inputs(op, scores, ranks, group_offsets);
  if (ties != "drop" && ties != "half") {
    fail(op, "ties", "must be 'drop' or 'half', got '" + ties + "'");
  }
  check_denominator(op, denominator, {"scores", scores});
  [[maybe_unused]] double* sums =
      check_workspace(op, workspace, scores, group_offsets.shape[0] - 1);
  RLHF_ON_CUDA(scores, cuda::ranking_loss(scores, ranks, group_offsets, ties == "half",
                                          denominator_pointer(denominator), loss, stats, score_grad,
                                          scale, sums));
  check_entries(op, ranks, group_offsets);
  cpu::ranking_loss(scores, ranks, group_offsets, ties == "half", read_denominator(op, denominator),
                    loss, stats, score_grad, scale);
}

}  // namespace rlhf::ops
