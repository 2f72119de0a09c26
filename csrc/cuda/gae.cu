// gae on CUDA. Rows of up to 4096 tokens: row_scan.cuh. Longer ones, and older devices: a warp
// walks its row from the end, 32 positions at a time; the recurrence inside them is a scan of
// affine maps (csrc/math/gae.h). Reads 8 bytes and the mask per token, writes 8; fp64 arithmetic.
// Whitening that does not fit into the launch is two more over the advantages (whiten.cu). Masked
// entries are never read and give 0.
#include "cuda/gae.h"
#include "cuda/launch.cuh"
#include "cuda/row_scan.cuh"
#include "cuda/whiten.h"
#include "math/gae.h"

namespace rlhf::cuda {
namespace {

constexpr int kRowsPerBlock = 8;
constexpr int kThreads = kRowsPerBlock * kWarpSize;

struct Rows {
  const float* rewards;
  const float* values;
  const uint8_t* mask;
  int64_t count;
  int64_t length;
};

struct Entry {
  double reward = 0;
  double value = 0;
  bool keep = false;
};

// Positions before the row's first count as masked.
__device__ Entry load_entry(const Rows& rows, int64_t row, int64_t position) {
  const int64_t i = row * rows.length + position;
  if (position < 0 || !rows.mask[i]) return {};
  return {rows.rewards[i], rows.values[i], true};
}

// The highest lane of a set that is not empty; lane 0 when it is.
__device__ int highest_lane(unsigned lanes) {
  return lanes == 0 ? 0 : 31 - __clz(static_cast<int>(lanes));
}

// This lane's advantage; lane 0 is the last of the 32 positions. `state` is that of the positions
// behind them, and moves over all 32.
__device__ double scan_advantages(const Entry& entry, double gamma, double lam,
                                  math::GaeState<double>& state) {
  const unsigned kept = __ballot_sync(kFullWarp, entry.keep);
  const unsigned behind = kept & ((1u << lane_index()) - 1u);
  const double neighbour = __shfl_sync(kFullWarp, entry.value, highest_lane(behind));
  const double next_value = behind == 0 ? state.next_value : neighbour;
  math::GaeMap<double> map;
  if (entry.keep)
    map = {math::gae_delta(entry.reward, entry.value, next_value, gamma), gamma * lam};
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    math::GaeMap<double> later;
    later.base = __shfl_up_sync(kFullWarp, map.base, offset);
    later.slope = __shfl_up_sync(kFullWarp, map.slope, offset);
    if (lane_index() >= offset) map = map.after(later);
  }
  const double advantage = map(state.next_advantage);
  const double first_value = __shfl_sync(kFullWarp, entry.value, highest_lane(kept));
  if (kept != 0) state.next_value = first_value;
  state.next_advantage = __shfl_sync(kFullWarp, advantage, kWarpSize - 1);
  return advantage;
}

__global__ void gae_kernel(Rows rows, double gamma, double lam, float* advantages, float* returns) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  if (row >= rows.count) return;
  math::GaeState<double> state;
  int64_t position = rows.length - 1 - lane_index();
  Entry entry = load_entry(rows, row, position);
  for (int64_t left = rows.length; left > 0; left -= kWarpSize, position -= kWarpSize) {
    // Asked for here, so that the scan hides the wait.
    const Entry ahead = load_entry(rows, row, position - kWarpSize);
    const double advantage = scan_advantages(entry, gamma, lam, state);
    if (position >= 0) {
      const int64_t i = row * rows.length + position;
      advantages[i] = entry.keep ? static_cast<float>(advantage) : 0.0f;
      returns[i] = entry.keep ? static_cast<float>(advantage + entry.value) : 0.0f;
    }
    entry = ahead;
  }
}

}  // namespace

void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns, double* workspace) {
  const char* op = "gae";
  const Target target(rewards);
  ScanInputs in = {};
  in.rewards = rewards.as<const float>();
  in.values = values.as<const float>();
  in.mask = mask.as<const uint8_t>();
  in.count = rewards.shape[0];
  in.length = rewards.shape[1];
  in.rates = math::gae_rates(gamma, lam);
  const ScanOutputs to = {advantages.as<float>(), returns.as<float>(), nullptr};
  const ScanDone done = launch_scan<false>(op, target, in, to, whiten_advantages, workspace);
  if (done == ScanDone::kNothing) {
    const Rows rows = {in.rewards, in.values, in.mask, in.count, in.length};
    launch(op, target, gae_kernel, blocks_for(rows.count, kRowsPerBlock), kThreads, 0, rows, gamma,
           lam, to.advantages, to.returns);
  }
  if (done != ScanDone::kAll && whiten_advantages) {
    whiten(advantages, mask, true, advantages, workspace);
  }
}

}  // namespace rlhf::cuda
