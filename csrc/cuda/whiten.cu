// whiten on CUDA, two launches: fp64 moments of each block, then the entries. Every block of the
// second launch merges all partial moments, in one order. Reads 8 bytes and the mask twice per
// entry, writes 4. Formula: csrc/math/whiten.h.
#include "cuda/token_blocks.cuh"
#include "cuda/whiten.h"
#include "math/whiten.h"

namespace rlhf::cuda {
namespace {

using math::MomentSum;

// Beyond it a block takes several stretches of entries, so that merging costs no more than they do.
constexpr int64_t kMostApplyBlocks = 256;

__global__ void whiten_moments_kernel(const float* x, const uint8_t* mask, int64_t count,
                                      double* workspace) {
  math::ShiftedSums sums;
  for_tokens(blockIdx.x, count, [&](int64_t i) {
    if (mask[i]) sums.add(x[i]);
  });
  leave_partial(MomentSum{sums.moments()}, workspace);
}

// `x` and `out` may be the same memory.
__global__ void whiten_apply_kernel(const float* x, const uint8_t* mask, int64_t count,
                                    bool shift_mean, double* workspace, int64_t blocks,
                                    float* out) {
  const math::Moments moments =
      merge_partials<MomentSum>(workspace, blocks, block_shared<ThreadSums<MomentSum>>().sums)
          .moments;
  const auto scale = math::whiten_scale(moments.mean, moments.variance(), shift_mean);
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    for_tokens(block, count, [&](int64_t i) {
      out[i] = mask[i] ? static_cast<float>(math::whiten_entry(x[i], scale)) : 0.0f;
    });
  }
}

}  // namespace

void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out,
            double* workspace) {
  const char* op = "whiten";
  const Target target(x);
  const int64_t count = x.numel();
  const int64_t blocks = partial_blocks(count);
  const size_t shared = sizeof(ThreadSums<MomentSum>);
  launch(op, target, whiten_moments_kernel, blocks, kReduceThreads, shared, x.as<const float>(),
         mask.as<const uint8_t>(), count, workspace);
  launch(op, target, whiten_apply_kernel, blocks < kMostApplyBlocks ? blocks : kMostApplyBlocks,
         kReduceThreads, shared, x.as<const float>(), mask.as<const uint8_t>(), count, shift_mean,
         workspace, blocks, out.as<float>());
}

}  // namespace rlhf::cuda
