// whiten on the CPU. Two passes: moments in fp64 blocks, then the entries. Masked entries are never
// read and become 0. Formula: csrc/math/whiten.h.
#include "cpu/whiten.h"

#include "cpu/lanes.h"
#include "cpu/token_blocks.h"
#include "dispatch.h"
#include "math/whiten.h"

namespace rlhf::cpu {
namespace {

using math::MomentSum;

}  // namespace

void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out) {
  dispatch_compute("whiten", "x", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* entry = x.as<T>();
    const uint8_t* keep = mask.as<uint8_t>();
    T* result = out.as<T>();
    const int64_t count = x.numel();
    const MomentSum sum = reduce_blocks<MomentSum>(
        count, kTokenBlock, count, [=](int64_t begin, int64_t end, MomentSum& block) {
          block.moments = masked_moments(entry + begin, keep + begin, end - begin);
        });
    const auto scale = math::whiten_scale(sum.moments.mean, sum.moments.variance(), shift_mean);
    parallel_ranges(count, kTokenBlock, count, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        result[i] = keep[i] ? static_cast<T>(math::whiten_entry(entry[i], scale)) : T(0);
      }
    });
  });
}

}  // namespace rlhf::cpu
