// token_kl on the CPU. Reads two log-probs, writes one result per token; fp32 arithmetic
// (fp64 for fp64 inputs). Formula: csrc/math/token_kl.h.
#include "cpu/token_kl.h"

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "dispatch.h"

namespace rlhf::cpu {

void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              math::KlEstimator estimator, const TensorView& out) {
  dispatch_floating("token_kl", "logprobs", logprobs.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const T* x = logprobs.as<T>();
    const T* ref = ref_logprobs.as<T>();
    C* y = out.as<C>();
    parallel_ranges(out.numel(), 4096, out.numel(), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        y[i] = math::token_kl<C>(estimator, load(x + i), load(ref + i));
      }
    });
  });
}

void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, math::KlEstimator estimator,
                       const TensorView& grad_logprobs) {
  dispatch_floating("token_kl_backward", "logprobs", logprobs.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const C* g = grad_out.as<C>();
    const T* x = logprobs.as<T>();
    const T* ref = ref_logprobs.as<T>();
    T* y = grad_logprobs.as<T>();
    const int64_t count = logprobs.numel();
    parallel_ranges(count, 4096, count, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        store(y + i, g[i] * math::token_kl_gradient<C>(estimator, load(x + i), load(ref + i)));
      }
    });
  });
}

}  // namespace rlhf::cpu
