// token_kl on the CPU. Reads two log-probs, writes one result per token; fp32 arithmetic
// (fp64 for fp64 inputs). Formula: csrc/math/token_kl.h.
#include "cpu/token_kl.h"

#include <type_traits>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "dispatch.h"

namespace rlhf::cpu {
namespace {

constexpr int64_t kPiece = 4096;

// The estimator as a compile-time constant: with the choice inside, the loops would stay scalar.
template <typename Body>
void dispatch_estimator(math::KlEstimator estimator, const Body& body) {
  using math::KlEstimator;
  if (estimator == KlEstimator::kK1)
    return body(std::integral_constant<KlEstimator, KlEstimator::kK1>{});
  if (estimator == KlEstimator::kK2)
    return body(std::integral_constant<KlEstimator, KlEstimator::kK2>{});
  body(std::integral_constant<KlEstimator, KlEstimator::kK3>{});
}

}  // namespace

void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              math::KlEstimator estimator, const TensorView& out) {
  dispatch_floating("token_kl", "logprobs", logprobs.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const T* x = logprobs.as<T>();
    const T* ref = ref_logprobs.as<T>();
    C* y = out.as<C>();
    dispatch_estimator(estimator, [=, &out](auto constant) {
      parallel_ranges(out.numel(), kPiece, out.numel(), [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          y[i] = math::token_kl<C>(constant(), load(x + i), load(ref + i));
        }
      });
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
    dispatch_estimator(estimator, [=](auto constant) {
      parallel_ranges(count, kPiece, count, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          store(y + i, g[i] * math::token_kl_gradient<C>(constant(), load(x + i), load(ref + i)));
        }
      });
    });
  });
}

}  // namespace rlhf::cpu
