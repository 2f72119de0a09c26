// exact_kl on CUDA, one block per row of both tensors. Forward: one read of each row (2 x 2 or 2 x
// 4 bytes per element); rows that are not alike are read again. Backward: one read of both and one
// write. fp32 lanes, fp64 across lanes and warps in their order. Formula:
// csrc/math/exact_kl.h.
#include "cuda/dispatch.cuh"
#include "cuda/exact_kl.h"
#include "cuda/launch.cuh"
#include "cuda/row_pair.cuh"
#include "math/exact_kl.h"

namespace rlhf::cuda {
namespace {

using math::SavedRow;

struct KlShared {
  PairShared pair;
  RowShared row;
};

template <typename S>
__global__ void __launch_bounds__(kMaxPairThreads, kPairBlocks)
    exact_kl_kernel(Rows<const S> logits, Rows<const S> ref_logits, const bool* mask,
                    Temperatures temperatures, float* kl, SavedRow* saved) {
  const int64_t row = blockIdx.x;
  const bool first = threadIdx.x == 0;
  if (!row_counts(mask, row)) {
    if (!first) return;
    saved[row] = SavedRow();
    kl[row] = 0.0f;
    return;
  }
  KlShared& shared = block_shared<KlShared>();
  pair_kl(logits.row(row), ref_logits.row(row), logits.vocab, temperatures.inverse_of(row),
          &shared.pair, &shared.row);
  if (!first) return;
  saved[row] = shared.pair.saved;
  kl[row] = static_cast<float>(shared.pair.kl);
}

template <typename S>
__global__ void __launch_bounds__(kMaxPairThreads, kPairBlocks)
    exact_kl_backward_kernel(const float* grad_kl, const float* kl, Rows<const S> logits,
                             Rows<const S> ref_logits, const SavedRow* saved, Rows<S> out) {
  const int64_t row = blockIdx.x;
  const S* x = logits.row(row);
  const S* y = ref_logits.row(row);
  RowGradient& shared = block_shared<RowGradient>();
  if (threadIdx.x == 0) {
    SavedRow scaled = saved[row];
    const math::RowCoefficients k = math::exact_kl_coefficients(kl[row], grad_kl[row]);
    scaled.a = k.a;
    scaled.c = k.c;
    shared = make_gradient<S>(x, y, -1, scaled, 1.0);
  }
  __syncthreads();
  write_gradient<S, true>(x, y, logits.vocab, shared, out);
}

}  // namespace

void exact_kl(const TensorView& logits, const TensorView& ref_logits,
              const std::optional<TensorView>& mask, const std::optional<TensorView>& temperatures,
              double temperature, const TensorView& kl, const TensorView& rows) {
  const char* op = "exact_kl";
  dispatch_storage(op, "logits", logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(op, Target(logits), exact_kl_kernel<S>, logits.shape[0],
           row_threads<S>(op, logits.shape[0], logits.shape[1], kMaxPairThreads), sizeof(KlShared),
           Rows<const S>(logits), Rows<const S>(ref_logits), mask_bits(mask),
           Temperatures(temperatures, temperature), kl.as<float>(), rows.as<SavedRow>());
  });
}

void exact_kl_backward(const TensorView& grad_kl, const TensorView& logits,
                       const TensorView& ref_logits, const TensorView& kl, const TensorView& rows,
                       const TensorView& grad_logits) {
  const char* op = "exact_kl_backward";
  dispatch_storage(op, "logits", logits.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(op, Target(logits), exact_kl_backward_kernel<S>, logits.shape[0],
           row_threads<S>(op, logits.shape[0], logits.shape[1], kMaxPairThreads),
           sizeof(RowGradient), grad_kl.as<const float>(), kl.as<const float>(),
           Rows<const S>(logits), Rows<const S>(ref_logits), rows.as<const SavedRow>(),
           Rows<S>(grad_logits));
  });
}

}  // namespace rlhf::cuda
