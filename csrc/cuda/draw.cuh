// The entry of a row at which the running sum of its masses exceeds a goal, by the whole block.
//
// The sums of the pass over the row pick a warp's share of it. The warps read that share again, in
// chunks of 32 vectors, a vector a lane; then one warp picks the chunk, reads it, and picks the
// entry. After the pass a thread waits for about 30 fp64 shuffles, one load of the share and one of
// the chunk, which L2 or L1 still hold, and two barriers; no fp64 function is among them.
#pragma once

#include "cuda/block_sums.cuh"
#include "cuda/row.cuh"
#include "cuda/select.cuh"

namespace rlhf::cuda {

constexpr int kMostChunks = 64;
constexpr int kGroup = kRowUnroll * kWarpSize;  // vectors that a warp loads together
constexpr int kDrawWarp = 1;                    // warp 0 has the row's state to compute meanwhile

// Of a sequence of masses: where the running sum exceeds the goal, and the sum before it.
struct Pick {
  int index = -1;
  double below = 0;
  double total = 0;
  bool exceeds = false;  // else: the last mass, since rounding left the sum below the goal
};

// Of the lanes' masses. An entry without mass is never picked; -1 if there is none.
__device__ inline Pick pick_lane(double mass, double goal) {
  double upto = mass;
  RLHF_UNROLL
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const double other = __shfl_up_sync(kFullWarp, upto, offset);
    if (lane_index() >= offset) upto += other;
  }
  const unsigned with_mass = __ballot_sync(kFullWarp, mass > 0);
  const unsigned over = __ballot_sync(kFullWarp, mass > 0 && upto > goal);
  Pick pick;
  pick.exceeds = over != 0;
  pick.index = over != 0 ? __ffs(static_cast<int>(over)) - 1
                         : (with_mass != 0 ? 31 - __clz(static_cast<int>(with_mass)) : -1);
  pick.below = __shfl_sync(kFullWarp, upto - mass, pick.index < 0 ? 0 : pick.index);
  pick.total = __shfl_sync(kFullWarp, upto, kWarpSize - 1);
  return pick;
}

// Of `count` masses in shared memory.
__device__ inline Pick pick_chunk(const double* masses, int count, double goal) {
  Pick best;
  for (int first = 0; first < count; first += kWarpSize) {
    const int i = first + lane_index();
    const Pick pick = pick_lane(i < count ? masses[i] : 0.0, goal - best.total);
    if (pick.index >= 0) {
      best.index = first + pick.index;
      best.below = best.total + pick.below;
      best.exceeds = pick.exceeds;
    }
    best.total += pick.total;
    if (pick.exceeds) break;
  }
  return best;
}

// A share of a row, and what its running sum must exceed, relative to the share's own maximum:
// there its entries are not too small to have a mass.
struct Share {
  double total;  // of the whole row, relative to its maximum
  double goal;
  float max;
  VectorRange vectors;
  int chunk;  // vectors of a chunk

  __device__ int chunks() const { return (vectors.end - vectors.begin + chunk - 1) / chunk; }
  __device__ VectorRange chunk_at(int index) const {
    const int begin = vectors.begin + index * chunk;
    return {begin, begin + chunk < vectors.end ? begin + chunk : vectors.end};
  }
};

struct DrawShared {
  double chunks[kMostChunks];
  Share share;  // kept here while its chunks are weighed
  float threshold;
  int64_t token;
  float value;
};

// By each warp for itself, from the sums that sum_shares() has left: every thread gets the same.
template <typename S>
__device__ Share pick_share(const RowShared& row, int vocab, double u, float scale) {
  const int lane = lane_index(), warps = warp_count();
  double mass = 0, max = -HUGE_VAL;
  if (lane < warps) {
    mass = row.warps[lane].peaks + row.warps[lane].rest;
    max = row.warps[lane].max;
  }
  const float highest = warp_max(static_cast<float>(max));
  // Without mass the difference may be that of two infinities.
  const bool lower = mass != 0 && max != highest;
  const double factor = lower ? exp2_fast((static_cast<float>(max) - highest) * scale) : 1.0f;
  mass *= factor;
  const double total = warp_sum(mass);
  const double goal = u * total;
  const Pick pick = pick_lane(mass, goal);
  const int chosen = pick.index < 0 ? 0 : pick.index;
  const double own = __shfl_sync(kFullWarp, factor, chosen);
  Share share;
  share.total = total;
  share.goal = own > 0 && goal > pick.below ? (goal - pick.below) / own : 0.0;
  share.max = __shfl_sync(kFullWarp, static_cast<float>(max), chosen);
  share.vectors = range_of_warp(vector_count<S>(vocab), chosen, warps);
  const int vectors = share.vectors.end - share.vectors.begin;
  const int groups = (vectors + kGroup * kMostChunks - 1) / (kGroup * kMostChunks);
  share.chunk = vectors <= kWarpSize * kMostChunks ? kWarpSize : groups * kGroup;
  return share;
}

// The entries of a lane's vector and their masses.
template <typename S>
struct DrawnVector {
  float values[kPack<S>];
  float masses[kPack<S>];

  __device__ DrawnVector(const uint32_t* words, const SampledRow<S>& row, float threshold) {
    constexpr int kPerWord = Packed<S>::kPerWord;
    RLHF_UNROLL
    for (int i = 0; i < kWords; ++i) {
      values[i * kPerWord] = Packed<S>::low(words[i]);
      if (kPerWord == 2) values[i * kPerWord + kPerWord - 1] = Packed<S>::high(words[i]);
    }
    RLHF_UNROLL
    for (int e = 0; e < kPack<S>; ++e) {
      masses[e] = values[e] >= threshold ? row.mass(values[e]) : 0.0f;
    }
  }

  __device__ double sum() const {
    float total = 0;
    RLHF_UNROLL
    for (int e = 0; e < kPack<S>; ++e) total += masses[e];
    return total;
  }
};

// The masses of a group's four chunks of 32 vectors, which begins at vector `first`, added to what
// this lane has of them. All loads are under way at once; what lies behind the share is not
// counted.
template <typename S>
__device__ void weigh_group(const SampledRow<S>& row, int first, int end, float threshold,
                            double (&masses)[kRowUnroll]) {
  uint32_t words[kRowUnroll * kWords];
  RowReader<S>(row.x, row.vocab)
      .template read<kRowUnroll>(first, vector_count<S>(row.vocab), words);
  RLHF_UNROLL
  for (int u = 0; u < kRowUnroll; ++u) {
    const double mass = DrawnVector<S>(words + u * kWords, row, threshold).sum();
    if (first + u * kWarpSize + lane_index() < end) masses[u] += mass;
  }
}

// The masses of the share's chunks of 32 vectors; a warp takes four at a time.
template <typename S>
__device__ void weigh_small(const SampledRow<S>& row, const Share& share, float threshold,
                            double* chunks) {
  for (int done = warp_index() * kGroup; done < share.vectors.end - share.vectors.begin;
       done += warp_count() * kGroup) {
    double masses[kRowUnroll] = {};
    weigh_group(row, share.vectors.begin + done, share.vectors.end, threshold, masses);
    const double mass = warp_totals(masses);  // lane l has that of index l / 8
    const int chunk = done / kWarpSize + lane_index() / 8;
    if (lane_index() % 8 == 0 && chunk < share.chunks()) chunks[chunk] = mass;
  }
}

// Of larger ones, one at a time.
template <typename S>
__device__ void weigh_large(const SampledRow<S>& row, const Share& share, float threshold,
                            double* chunks) {
  for (int chunk = warp_index(); chunk < share.chunks(); chunk += warp_count()) {
    const VectorRange range = share.chunk_at(chunk);
    double masses[kRowUnroll] = {};
    for (int v = range.begin; v < range.end; v += kGroup) {
      weigh_group(row, v, range.end, threshold, masses);
    }
    const double total = warp_sum(warp_totals(masses)) / 8;
    if (lane_index() == 0) chunks[chunk] = total;
  }
}

template <typename S>
__device__ void weigh_chunks(const SampledRow<S>& row, const Share& share, float threshold,
                             DrawShared* shared) {
  if (threadIdx.x == 0) {
    shared->share = share;
    shared->threshold = threshold;
  }
  if (share.chunk == kWarpSize) {
    weigh_small(row, share, threshold, shared->chunks);
  } else {
    weigh_large(row, share, threshold, shared->chunks);
  }
}

// In one warp, after a barrier: the entry, from the chunks' masses.
template <typename S>
__device__ void draw_entry(const S* x, int vocab, float scale, DrawShared* shared) {
  const RowReader<S> reader(x, vocab);
  const Share& share = shared->share;
  const SampledRow<S> row = {x, vocab, share.max, scale};
  const double goal = share.goal;
  const Pick chunk = pick_chunk(shared->chunks, share.chunks(), goal);
  const VectorRange range = share.chunk_at(chunk.index < 0 ? 0 : chunk.index);
  double below = chunk.below;
  for (int v = range.begin; v < range.end; v += kWarpSize) {
    uint32_t words[kWords];
    reader.template read<1>(v, range.end, words);
    const DrawnVector<S> drawn(words, row, shared->threshold);
    const Pick pick = pick_lane(drawn.sum(), goal - below);
    if (pick.index == lane_index()) {
      double sum = below + pick.below;
      int entry = -1;
      RLHF_UNROLL
      for (int e = 0; e < kPack<S>; ++e) {
        if (entry >= 0 && sum > goal) continue;
        sum += drawn.masses[e];
        if (drawn.masses[e] > 0) entry = e;
      }
      shared->token = static_cast<int64_t>(v + pick.index) * kPack<S> + entry;
      RLHF_UNROLL
      for (int e = 0; e < kPack<S>; ++e) {
        if (e == entry) shared->value = drawn.values[e];
      }
    }
    if (pick.exceeds) break;
    below += pick.total;
  }
}

}  // namespace rlhf::cuda
