// token_kl on CUDA. Reads two log-probs, writes one fp32 result per token; fp32 arithmetic.
// Formula: csrc/math/token_kl.h.
#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/token_kl.h"
#include "cuda/vector.cuh"

namespace rlhf::cuda {
namespace {

constexpr int kThreads = 256;

__device__ int64_t token_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <typename S>
__global__ void token_kl_forward_kernel(const S* logprobs, const S* ref_logprobs, float* out,
                                        int64_t count, math::KlEstimator estimator) {
  const int64_t i = token_index();
  if (i >= count) return;
  out[i] = math::token_kl<float>(estimator, to_float(logprobs[i]), to_float(ref_logprobs[i]));
}

template <typename S>
__global__ void token_kl_backward_kernel(const float* grad_out, const S* logprobs,
                                         const S* ref_logprobs, S* grad, int64_t count,
                                         math::KlEstimator estimator) {
  const int64_t i = token_index();
  if (i >= count) return;
  const float slope =
      math::token_kl_gradient<float>(estimator, to_float(logprobs[i]), to_float(ref_logprobs[i]));
  from_float(grad_out[i] * slope, grad + i);
}

}  // namespace

void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              math::KlEstimator estimator, const TensorView& out) {
  const char* op = "token_kl";
  dispatch_storage(op, "logprobs", logprobs.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const int64_t count = logprobs.numel();
    launch(op, Target(logprobs), token_kl_forward_kernel<S>, blocks_for(count, kThreads), kThreads,
           0, logprobs.as<const S>(), ref_logprobs.as<const S>(), out.as<float>(), count,
           estimator);
  });
}

void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, math::KlEstimator estimator,
                       const TensorView& grad_logprobs) {
  const char* op = "token_kl_backward";
  dispatch_storage(op, "logprobs", logprobs.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const int64_t count = logprobs.numel();
    launch(op, Target(logprobs), token_kl_backward_kernel<S>, blocks_for(count, kThreads), kThreads,
           0, grad_out.as<const float>(), logprobs.as<const S>(), ref_logprobs.as<const S>(),
           grad_logprobs.as<S>(), count, estimator);
  });
}

}  // namespace rlhf::cuda
