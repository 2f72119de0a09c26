// Reads a tensor once and writes next to nothing: what the benchmark calls the read roofline.
//
// Each thread adds up 16-byte vectors, four independent loads at a time, so that the sum costs less
// than the reading. The sums go to `out` to keep the compiler from dropping the loads.
#include "cuda/launch.cuh"
#include "cuda/read_probe.h"

namespace rlhf::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kLoads = 4;

__global__ void read_probe_kernel(const float4* data, int64_t vectors, float* out, int64_t slots) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  float sum = 0.0f;
  for (int64_t i = thread; i < vectors; i += kLoads * step) {
    float4 values[kLoads];
    for (int k = 0; k < kLoads; ++k) {
      const int64_t place = i + k * step;
      values[k] = place < vectors ? data[place] : float4{0.0f, 0.0f, 0.0f, 0.0f};
    }
    for (int k = 0; k < kLoads; ++k) {
      sum += (values[k].x + values[k].y) + (values[k].z + values[k].w);
    }
  }
  // A value that no sum of real data has: the store is there, and never happens.
  if (sum == -1.25e-38f) out[thread % slots] = sum;
}

}  // namespace

void read_probe(const TensorView& tensor, const TensorView& out) {
  const int64_t vectors = tensor.numel() * 4 / 16;
  // Enough blocks to fill any chip several times over.
  const int64_t blocks = vectors < kThreads * kLoads ? 1 : 132 * 16;
  launch("read_probe", Target(tensor), read_probe_kernel, blocks, kThreads, 0,
         tensor.as<const float4>(), vectors, out.as<float>(), out.numel());
}

}  // namespace rlhf::cuda
