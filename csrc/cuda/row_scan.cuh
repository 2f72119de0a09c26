// Advantages of rows of up to 4096 tokens: shaped before and whitened after in the same launch.
//
// A thread holds four positions of a row, a row has 1 to 32 warps of one block. The recurrence is a
// scan of affine maps (csrc/math/advantages.h): over the four, over lanes, over the row's warps. A
// thread waits for its loads, all under way at once; ten fp64 shuffles; a barrier and one fp64 step
// per later warp of its row; and, whitened, seven shuffles, the barrier of the grid, a load, and
// two barriers of the block. The advantages stay in registers meanwhile.
#pragma once

#include "cuda/block_sums.cuh"
#include "cuda/cluster.cuh"
#include "cuda/row_stretch.cuh"
#include "cuda/workspace.h"
#include "math/whiten.h"

namespace rlhf::cuda {

constexpr int kScanWarps = 32;
constexpr int kScanThreads = kScanWarps * kWarpSize;
constexpr int64_t kMostScanLength = int64_t{kScanThreads} * kScanEach;
constexpr int kScanSums = 4;  // count, sum, sum of squares, nothing

// How rows lie in blocks.
struct ScanShape {
  int row_warps;  // a power of two
  int warps;      // of a block
  bool aligned;   // whole vectors may be loaded and stored
};

struct ScanShared {
  math::GaeMap<double> maps[kScanWarps];
  bool kept[kScanWarps];
  double sums[kScanWarps][kScanSums];
  double totals[kScanSums];
  float mean_high, mean_low, factor;
};

// What comes into this thread's stretch from behind it, and whether a position behind it counts.
struct Behind {
  double carry;
  bool kept;
};

// `end` stands behind the row's last position. A barrier inside.
__device__ inline Behind scan_row(const ScanInputs& in, const Stretch& mine, double end,
                                  int row_warps, ScanShared& shared) {
  const int lane = lane_index(), warp = warp_index(), place = warp % row_warps;
  math::GaeMap<double> map;
  RLHF_UNROLL
  for (int e = kScanEach - 1; e >= 0; --e) {
    if (mine.keeps(e)) map = mine.carry(in, e).after(map);
  }
  RLHF_UNROLL
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    math::GaeMap<double> later;
    later.base = __shfl_down_sync(kFullWarp, map.base, offset);
    later.slope = __shfl_down_sync(kFullWarp, map.slope, offset);
    if (lane + offset < kWarpSize) map = map.after(later);
  }
  const unsigned lanes = __ballot_sync(kFullWarp, mine.keep != 0);
  if (lane == 0) {
    shared.maps[warp] = map;
    shared.kept[warp] = lanes != 0;
  }
  __syncthreads();
  Behind out = {end, (lanes >> lane) > 1u};
  for (int other = row_warps - 1; other > place; --other) {
    out.carry = shared.maps[warp - place + other](out.carry);
    out.kept = out.kept || shared.kept[warp - place + other];
  }
  const double next = __shfl_down_sync(kFullWarp, map(out.carry), 1);
  if (lane + 1 < kWarpSize) out.carry = next;
  return out;
}

// Leaves the mean in two parts, and 1 / sqrt(variance + epsilon), in shared memory.
__device__ inline void merge_grid(double (&sums)[kScanSums], double* partials, ScanShared& shared) {
  const int lane = lane_index(), warp = warp_index(), blocks = static_cast<int>(gridDim.x);
  constexpr int kStep = kWarpSize / kScanSums;
  const double sum = warp_totals(sums);
  if (lane % kStep == 0) shared.sums[warp][lane / kStep] = sum;
  __syncthreads();
  if (warp == 0) {
    const double block_sum = column_sums<kScanWarps>(shared.sums, warp_count());
    if (lane < kScanSums) partials[blockIdx.x * kScanSums + lane] = block_sum;
  }
  grid_sync();
  double mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < blocks * kScanSums; i += blockDim.x) {
    mine += partials[i];
  }
  mine = strided_sum<kScanSums>(mine);
  if (lane < kScanSums) shared.sums[warp][lane] = mine;
  __syncthreads();
  if (warp == 0) {
    const double total = column_sums<kScanWarps>(shared.sums, warp_count());
    if (lane < kScanSums) shared.totals[lane] = total;
    __syncwarp();
    const auto moments =
        math::ShiftedSums{0.0, shared.totals[0], shared.totals[1], shared.totals[2]}.moments();
    const auto scale = math::whiten_scale(moments.mean, moments.variance(), true);
    shared.mean_high = static_cast<float>(scale.mean);
    shared.mean_low = static_cast<float>(scale.mean - shared.mean_high);
    shared.factor = static_cast<float>(scale.factor);
  }
  __syncthreads();
}

// Results of a stretch, in fp32.
struct StretchResults {
  float advantages[kScanEach] = {};
  float returns[kScanEach] = {};
  float rewards[kScanEach] = {};
  double sums[kScanSums] = {};
};

__device__ inline StretchResults finish_stretch(const ScanInputs& in, const Stretch& mine,
                                                const Behind& behind, double score) {
  StretchResults out;
  double carry = behind.carry;
  bool last = !behind.kept;
  RLHF_UNROLL
  for (int e = kScanEach - 1; e >= 0; --e) {
    if (!mine.keeps(e)) continue;
    const double advantage = mine.rewards[e] - mine.values[e] + carry;
    out.advantages[e] = static_cast<float>(advantage);
    out.returns[e] = static_cast<float>(mine.rewards[e] + carry);
    out.rewards[e] = static_cast<float>(last ? mine.rewards[e] + score : mine.rewards[e]);
    // Of what is whitened: without rounding, a lone entry would not be its own mean.
    const double rounded = out.advantages[e];
    out.sums[1] += rounded;
    out.sums[2] += rounded * rounded;
    carry = mine.carry(in, e)(carry);
    last = false;
  }
  out.sums[0] = __popc(mine.keep);
  return out;
}

template <bool kShape, bool kWhiten>
__global__ void __launch_bounds__(kScanThreads, 1)
    advantages_kernel(ScanInputs in, ScanOutputs to, ScanShape shape, double* partials) {
  ScanShared& shared = block_shared<ScanShared>();
  const int warp = warp_index(), rows = shape.warps / shape.row_warps;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows + warp / shape.row_warps;
  const int first = (warp % shape.row_warps * kWarpSize + lane_index()) * kScanEach;
  const int64_t inside = row < in.count ? in.length - first : 0;
  const int left = inside < 0 ? 0 : (inside > kScanEach ? kScanEach : static_cast<int>(inside));
  const bool whole = shape.aligned && left == kScanEach;
  const int64_t start = left > 0 ? row * in.length + first : 0;
  const double score = kShape && row < in.count ? in.scores[row] : 0.0;
  const Stretch mine = load_stretch<kShape>(in, start, whole, left);
  const Behind behind = scan_row(in, mine, score, shape.row_warps, shared);
  StretchResults out = finish_stretch(in, mine, behind, score);
  store_four(to.returns + start, whole, left, out.returns);
  if (kShape) store_four(to.rewards + start, whole, left, out.rewards);
  if (kWhiten) {
    merge_grid(out.sums, partials, shared);
    RLHF_UNROLL
    for (int e = 0; e < kScanEach; ++e) {
      const float centred = (out.advantages[e] - shared.mean_high) - shared.mean_low;
      out.advantages[e] = mine.keeps(e) ? centred * shared.factor : 0.0f;
    }
  }
  store_four(to.advantages + start, whole, left, out.advantages);
}

inline ScanShape scan_shape(const ScanInputs& in, const ScanOutputs& to) {
  int row_warps = 1;
  while (row_warps * kWarpSize * kScanEach < in.length) row_warps *= 2;
  int warps = row_warps;
  while (warps < kScanWarps && warps < in.count * row_warps) warps *= 2;
  uintptr_t bits = reinterpret_cast<uintptr_t>(in.mask) % kScanEach * 4;
  for (const float* pointer :
       {in.rewards, in.logprobs, in.ref_logprobs, in.values,
        static_cast<const float*>(to.advantages), static_cast<const float*>(to.returns),
        static_cast<const float*>(to.rewards)}) {
    bits |= reinterpret_cast<uintptr_t>(pointer);
  }
  return {row_warps, warps, bits % 16 == 0 && in.length % kScanEach == 0};
}

// What launch_scan() has left to do.
enum class ScanDone { kNothing, kAdvantages, kAll };

// One launch where rows are short enough; whitened too where all blocks fit on the device at once.
template <bool kShape>
ScanDone launch_scan(const char* op, const Target& target, const ScanInputs& in,
                     const ScanOutputs& to, bool whiten, double* workspace) {
  if (in.length > kMostScanLength || compute_capability(op, target) < 90) {
    return ScanDone::kNothing;
  }
  if (in.length == 0) return ScanDone::kAll;
  const ScanShape shape = scan_shape(in, to);
  const int64_t blocks = blocks_for(in.count, shape.warps / shape.row_warps);
  const int threads = shape.warps * kWarpSize;
  Launch launch = {blocks, threads, sizeof(ScanShared)};
  if (!whiten) {
    launch_group(op, target, advantages_kernel<kShape, false>, launch, in, to, shape, workspace);
    return ScanDone::kAll;
  }
  const auto kernel = advantages_kernel<kShape, true>;
  static PerDevice resident;
  const int64_t most = resident.of(target, [&] {
    return resident_blocks(op, target, kernel, kScanThreads, sizeof(ScanShared));
  });
  if (blocks > most || blocks * kScanSums > partials_size(in.count * in.length)) {
    launch_group(op, target, advantages_kernel<kShape, false>, launch, in, to, shape, workspace);
    return ScanDone::kAdvantages;
  }
  launch.cooperative = true;
  launch_group(op, target, kernel, launch, in, to, shape, workspace);
  return ScanDone::kAll;
}

}  // namespace rlhf::cuda
