// gelu_tanh on the CPU. Forward reads and writes each element once, backward reads two and writes
// one; fp32 arithmetic (fp64 for fp64 inputs), one exponential and one division an element.
#include "cpu/gelu_tanh.h"

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "math/gelu_tanh.h"

namespace rlhf::cpu {
namespace {

// A multiple of every vector's width, so that only the last piece has a rest.
constexpr int64_t kPiece = 8192;

}  // namespace

void gelu_tanh(const TensorView& x, const TensorView& out) {
  const RowFunctions& functions = row_functions_for(x.dtype);
  const int64_t size = storage_size(x.dtype), count = x.numel();
  const char* from = x.as<char>();
  char* to = out.as<char>();
  parallel_ranges(count, kPiece, count, [&](int64_t begin, int64_t end) {
    functions.gelu_tanh(from + begin * size, end - begin, math::kGeluA, math::kGeluB,
                        to + begin * size);
  });
}

void gelu_tanh_backward(const TensorView& grad_out, const TensorView& x, const TensorView& grad_x) {
  const RowFunctions& functions = row_functions_for(x.dtype);
  const int64_t size = storage_size(x.dtype), count = x.numel();
  const char* grads = grad_out.as<char>();
  const char* from = x.as<char>();
  char* to = grad_x.as<char>();
  parallel_ranges(count, kPiece, count, [&](int64_t begin, int64_t end) {
    functions.gelu_tanh_gradient(grads + begin * size, from + begin * size, end - begin,
                                 math::kGeluA, math::kGeluB, to + begin * size);
  });
}

}  // namespace rlhf::cpu
