// loss_gradient on the CPU: reads and writes 4 bytes per element (fp32). The factor is rounded
// once, as torch rounds a number that multiplies a tensor.
#include "cpu/loss_gradient.h"

#include "cpu/parallel.h"
#include "dispatch.h"

namespace rlhf::cpu {

void loss_gradient(const TensorView& grad, double factor, const TensorView& out) {
  dispatch_compute("loss_gradient", "grad", grad.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = grad.as<const T>();
    T* to = out.as<T>();
    const T rounded = static_cast<T>(factor);
    const int64_t count = grad.numel();
    parallel_ranges(count, 16384, count, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = from[i] * rounded;
    });
  });
}

}  // namespace rlhf::cpu
