// causal_attention: contract. On a GPU torch's fused kernels do it.
#include "cpu/causal_attention.h"

#include "check.h"
#include "ops.h"

namespace rlhf::ops {
namespace {

void check_states(const char* op, const char* argument, const TensorView& view) {
  check_floating(op, argument, view);
  check_cpu(op, argument, view);
  if (view.ndim != 4) {
    fail(op, argument, "must be [batch, heads, positions, features], got " + shape_text(view));
  }
  if (view.shape[3] > 1 && view.strides[3] != 1) {
    fail(op, argument, "must have its features side by side; call .contiguous() on it");
  }
}

void check_like_query(const char* op, const char* argument, const TensorView& view,
                      const TensorView& query) {
  check_states(op, argument, view);
  check_dtype(op, argument, view, {query.dtype});
}

void check_inputs(const char* op, const TensorView& query, const TensorView& key,
                  const TensorView& value, double scale) {
  check_states(op, "query", query);
  check_like_query(op, "key", key, query);
  check_like_query(op, "value", value, query);
  if (query.shape[3] < 1) fail(op, "query", "must have features, got " + shape_text(query));
  const int64_t heads = key.shape[1];
  if (query.shape[1] < 1) fail(op, "query", "must have heads, got " + shape_text(query));
  if (heads < 1 || query.shape[1] % heads != 0) {
    fail(op, "key",
         "must have a number of heads that divides the query's " + std::to_string(query.shape[1]) +
             ", got " + std::to_string(heads));
  }
  check_shape(op, "key", key, {query.shape[0], heads, query.shape[2], query.shape[3]});
  check_shape(op, "value", value, {query.shape[0], heads, query.shape[2], value.shape[3]});
  check_finite(op, "scale", scale, -1e30, 1e30, "finite");
}

bool is_empty(const TensorView& query) { return query.numel() == 0; }

}  // namespace

void causal_attention(const TensorView& query, const TensorView& key, const TensorView& value,
                      double scale, const TensorView& out) {
  check_inputs("causal_attention", query, key, value, scale);
  if (!is_empty(query)) cpu::causal_attention(query, key, value, scale, out);
}

void causal_attention_backward(const TensorView& grad_out, const TensorView& query,
                               const TensorView& key, const TensorView& value, double scale,
                               const TensorView& grad_query, const TensorView& grad_key,
                               const TensorView& grad_value) {
  const char* op = "causal_attention_backward";
  check_inputs(op, query, key, value, scale);
  check_like_query(op, "grad_out", grad_out, query);
  check_shape(op, "grad_out", grad_out,
              {query.shape[0], query.shape[2], query.shape[1], value.shape[3]});
  if (is_empty(query)) return;
  cpu::causal_attention_backward(grad_out, query, key, value, scale, grad_query, grad_key,
                                 grad_value);
}

}  // namespace rlhf::ops
