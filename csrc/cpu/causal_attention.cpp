// causal_attention on the CPU: one head of keys at a time, whole, so that its rows stay in the
// second-level cache; fp32 arithmetic (fp64 for fp64 inputs). Threads share out heads.
#include "cpu/causal_attention.h"

#include <utility>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace rlhf::cpu {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kPieceWork = 1 << 18;  // multiplications handed to a thread at a time, at least

// [B, L, H, E], as results lie, seen as [B, H, L, E].
TensorView by_head(TensorView view) {
  std::swap(view.shape[1], view.shape[2]);
  std::swap(view.strides[1], view.strides[2]);
  return view;
}

// Address of [batch, head, 0, 0] of a tensor [B, H, L, E].
void* head_of(const TensorView& view, int64_t batch, int64_t head) {
  return view.as<char>() +
         (batch * view.strides[0] + head * view.strides[1]) * storage_size(view.dtype);
}

struct Inputs {
  const TensorView& query;
  const TensorView& key;
  const TensorView& value;
  double scale;

  int64_t key_heads() const { return key.shape[1]; }
  int64_t group() const { return query.shape[1] / key.shape[1]; }

  AttentionArgs args_of(int64_t batch, int64_t head) const {
    AttentionArgs args = {};
    args.query = head_of(query, batch, head * group());
    args.key = head_of(key, batch, head);
    args.value = head_of(value, batch, head);
    args.query_row = query.strides[2];
    args.query_head = query.strides[1];
    args.key_row = key.strides[2];
    args.value_row = value.strides[2];
    args.heads = group();
    args.length = query.shape[2];
    args.size = query.shape[3];
    args.value_size = value.shape[3];
    args.scale = scale;
    return args;
  }
};

// body(functions, args, batch, head) for every head of keys; each thread has a scratch.
template <typename Body>
void for_each_head(const Inputs& inputs, const Body& body) {
  const RowFunctions& functions = row_functions_for(inputs.query.dtype);
  const AttentionArgs shape = inputs.args_of(0, 0);
  const int64_t lane = inputs.query.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t bytes = functions.attention_scratch(shape) * lane + kAlignment;
  const int64_t work =
      shape.heads * shape.length * shape.length * (shape.size + shape.value_size) / 2 + 1;
  const int64_t count = inputs.query.shape[0] * inputs.key_heads();
  const int64_t piece = work < kPieceWork ? kPieceWork / work : 1;
  parallel_ranges(count, piece, count * work, [&](int64_t begin, int64_t end) {
    // Kept from call to call: fresh pages would cost more than a short sequence's work.
    static thread_local std::vector<char> room;
    if (static_cast<int64_t>(room.size()) < bytes) room.resize(static_cast<size_t>(bytes));
    const auto address = reinterpret_cast<uintptr_t>(room.data());
    for (int64_t index = begin; index < end; ++index) {
      const int64_t batch = index / inputs.key_heads(), head = index % inputs.key_heads();
      AttentionArgs args = inputs.args_of(batch, head);
      args.scratch = reinterpret_cast<void*>((address + kAlignment - 1) & -kAlignment);
      body(functions, &args, batch, head);
    }
  });
}

}  // namespace

// `out` is [B, L, H, E].
void causal_attention(const TensorView& query, const TensorView& key, const TensorView& value,
                      double scale, const TensorView& out) {
  const Inputs inputs = {query, key, value, scale};
  const TensorView result = by_head(out);
  for_each_head(
      inputs, [&](const RowFunctions& functions, AttentionArgs* args, int64_t batch, int64_t head) {
        args->out = head_of(result, batch, head * args->heads);
        args->out_row = result.strides[2];
        args->out_head = result.strides[1];
        functions.attention(*args);
      });
}

void causal_attention_backward(const TensorView& grad_out, const TensorView& query,
                               const TensorView& key, const TensorView& value, double scale,
                               const TensorView& grad_query, const TensorView& grad_key,
                               const TensorView& grad_value) {
  const Inputs inputs = {query, key, value, scale};
  const TensorView upstream = by_head(grad_out);
  for_each_head(
      inputs, [&](const RowFunctions& functions, AttentionArgs* args, int64_t batch, int64_t head) {
        args->grad_out = head_of(upstream, batch, head * args->heads);
        args->out_row = upstream.strides[2];
        args->out_head = upstream.strides[1];
        args->grad_query = head_of(grad_query, batch, head * args->heads);
        args->grad_query_row = grad_query.strides[2];
        args->grad_query_head = grad_query.strides[1];
        args->grad_key = head_of(grad_key, batch, head);
        args->grad_key_row = grad_key.strides[2];
        args->grad_value = head_of(grad_value, batch, head);
        args->grad_value_row = grad_value.strides[2];
        functions.attention_gradient(*args);
      });
}

}  // namespace rlhf::cpu
