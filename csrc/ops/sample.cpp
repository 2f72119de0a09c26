// sample: contract and dispatch.
#include "cpu/sample.h"

#include "cuda/sample.h"
#include "ops.h"
#include "ops/device.h"
#include "ops/row_checks.h"

namespace rlhf::ops {
namespace {

// int64 [N], contiguous.
void check_row_integers(const char* op, const char* argument, const TensorView& values,
                        const TensorView& logits) {
  check_dtype(op, argument, values, {DType::kInt64});
  check_shape(op, argument, values, {logits.shape[0]});
  check_contiguous(op, argument, values);
  check_same_device(op, argument, values, "logits", logits);
}

}  // namespace

void sample(const TensorView& logits, const TensorView& row_ids, const TensorView& positions,
            const OptionalView& temperatures, double temperature, int64_t seed, int64_t top_k,
            double top_p, const TensorView& tokens, const TensorView& logprobs,
            const TensorView& truncated_logprobs, const TensorView& entropy) {
  const char* op = "sample";
  check_logits(op, "logits", logits);
  check_row_integers(op, "row_ids", row_ids, logits);
  check_row_integers(op, "positions", positions, logits);
  check_temperature(op, temperature, temperatures, logits, std::nullopt);
  if (top_k < 0) {
    fail(op, "top_k", "must be 0 (off) or more, got " + std::to_string(top_k));
  }
  if (!(top_p > 0.0 && top_p <= 1.0)) {
    fail(op, "top_p", "must lie in (0, 1]; 1 is off; got " + std::to_string(top_p));
  }
  check_row_integers(op, "tokens", tokens, logits);
  check_row_values(op, "logprobs", logprobs, logits);
  check_row_values(op, "truncated_logprobs", truncated_logprobs, logits);
  check_row_values(op, "entropy", entropy, logits);
  RLHF_ON_CUDA(logits, cuda::sample({logits, row_ids, positions, temperatures, temperature, seed,
                                     top_k, top_p},
                                    {tokens, logprobs, truncated_logprobs, entropy}));
  cpu::sample({logits, row_ids, positions, temperatures, temperature, seed, top_k, top_p},
              {tokens, logprobs, truncated_logprobs, entropy});
}

}  // namespace rlhf::ops
