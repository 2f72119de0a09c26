// loss_gradient on CUDA, one launch: reads and writes 4 bytes per element, four of them a thread,
// and all loads of a thread are under way at once.
#include "cuda/launch.cuh"
#include "cuda/loss_gradient.h"

namespace rlhf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;

__global__ void loss_gradient_kernel(const float* grad, const float* upstream, const double* scale,
                                     float* out, int64_t count, bool aligned) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kEach;
  if (aligned && first + kEach <= count) {
    const float4 four = *reinterpret_cast<const float4*>(grad + first);
    const auto factor = static_cast<float>(*upstream * *scale);
    *reinterpret_cast<float4*>(out + first) = {four.x * factor, four.y * factor, four.z * factor,
                                               four.w * factor};
    return;
  }
  const auto factor = static_cast<float>(*upstream * *scale);
  for (int64_t i = first; i < count && i < first + kEach; ++i) out[i] = grad[i] * factor;
}

}  // namespace

void loss_gradient(const TensorView& grad, const TensorView& upstream, const TensorView& scale,
                   const TensorView& out) {
  const int64_t count = grad.numel();
  const auto bits = reinterpret_cast<uintptr_t>(grad.data) | reinterpret_cast<uintptr_t>(out.data);
  launch("loss_gradient", Target(grad), loss_gradient_kernel, blocks_for(count, kThreads * kEach),
         kThreads, 0, grad.as<const float>(), upstream.as<const float>(), scale.as<const double>(),
         out.as<float>(), count, bits % 16 == 0);
}

}  // namespace rlhf::cuda
