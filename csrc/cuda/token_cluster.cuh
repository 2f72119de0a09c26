// Masked sums over up to 2^17 tokens in one launch: a single cluster, each thread a few tokens.
//
// What a kernel waits for, one after the other: the loads, all of them under way at once; 9 fp64
// shuffles of a warp; a barrier and 6 loads of shared memory; what each block writes into the first
// one's shared memory and the cluster's barrier; 6 loads again. All sums are plain, so that no
// merge divides, and which thread adds a token depends on the number of tokens alone.
#pragma once

#include "cuda/block_sums.cuh"
#include "cuda/cluster.cuh"
#include "cuda/token_blocks.cuh"
#include "cuda/vector.cuh"

namespace rlhf::cuda {

constexpr int kClusterThreads = 512;
constexpr int kClusterWarps = kClusterThreads / kWarpSize;
constexpr int kMostGroup = 16;
constexpr int kTokenVector = 4;  // tokens that a thread loads together
constexpr int kTokenUnroll = 2;  // vectors of each input that it has under way
constexpr int64_t kClusterBlockTokens = int64_t{kClusterThreads} * kTokenVector * kTokenUnroll;
constexpr int64_t kMostClusterTokens = 1 << 17;
constexpr int kClusterSums = kBlockSums;
constexpr int kClusterMaxima = 2;

struct MaskedTokens {
  const float* inputs[3];
  const uint8_t* mask;
  float* grad;
  int64_t count;

  // Whether whole vectors may be loaded.
  bool aligned() const {
    uintptr_t bits = reinterpret_cast<uintptr_t>(mask) % kTokenVector * 4;
    for (const float* input : inputs) bits |= reinterpret_cast<uintptr_t>(input);
    return (bits | reinterpret_cast<uintptr_t>(grad)) % 16 == 0;
  }
};

// Four tokens as they lie in memory, with a byte of `keep` for each.
struct TokenVector {
  float values[3][kTokenVector];
  uint32_t keep;
};

__device__ inline TokenVector load_whole(const MaskedTokens& tokens, int first) {
  TokenVector out;
  RLHF_UNROLL
  for (int k = 0; k < 3; ++k) {
    const float4 four = *reinterpret_cast<const float4*>(tokens.inputs[k] + first);
    out.values[k][0] = four.x;
    out.values[k][1] = four.y;
    out.values[k][2] = four.z;
    out.values[k][3] = four.w;
  }
  memcpy(&out.keep, __builtin_assume_aligned(tokens.mask + first, 4), sizeof(out.keep));
  return out;
}

// Without alignment, or where the tokens end.
__device__ inline TokenVector load_each(const MaskedTokens& tokens, int first) {
  TokenVector out = {};
  for (int e = 0; e < kTokenVector && first + e < tokens.count; ++e) {
    if (!tokens.mask[first + e]) continue;
    out.keep |= 1u << 8 * e;
    for (int k = 0; k < 3; ++k) out.values[k][e] = tokens.inputs[k][first + e];
  }
  return out;
}

// The gradients of a vector; a masked token comes to the body as zeros, whatever lies there.
template <typename Body>
__device__ float4 visit_vector(const TokenVector& tokens, const Body& body) {
  if (tokens.keep == 0) return {0.0f, 0.0f, 0.0f, 0.0f};
  float grad[kTokenVector];
  RLHF_UNROLL
  for (int e = 0; e < kTokenVector; ++e) {
    const bool keep = (tokens.keep >> 8 * e & 255u) != 0;
    const float slope = body(keep ? tokens.values[0][e] : 0.0f, keep ? tokens.values[1][e] : 0.0f,
                             keep ? tokens.values[2][e] : 0.0f, keep);
    grad[e] = keep ? slope : 0.0f;
  }
  return {grad[0], grad[1], grad[2], grad[3]};
}

__device__ inline void store_each(const MaskedTokens& tokens, int first, const float4& grad) {
  const float each[kTokenVector] = {grad.x, grad.y, grad.z, grad.w};
  for (int e = 0; e < kTokenVector && first + e < tokens.count; ++e) {
    tokens.grad[first + e] = each[e];
  }
}

// grad = body(a, b, c, keep) for each of this thread's tokens. A masked one may come too, as zeros,
// which the body, without a branch, lets add nothing.
template <typename Body>
__device__ void for_cluster_tokens(const MaskedTokens& tokens, bool aligned, const Body& body) {
  const int count = static_cast<int>(tokens.count);
  const int step = static_cast<int>(gridDim.x) * kClusterThreads * kTokenVector;
  const int own = static_cast<int>(blockIdx.x * kClusterThreads + threadIdx.x) * kTokenVector;
  for (int base = own; base < count; base += kTokenUnroll * step) {
    // One branch around all loads, so that none of them waits for another.
    if (aligned && base + (kTokenUnroll - 1) * step + kTokenVector <= count) {
      TokenVector loaded[kTokenUnroll];
      RLHF_UNROLL
      for (int u = 0; u < kTokenUnroll; ++u) loaded[u] = load_whole(tokens, base + u * step);
      RLHF_UNROLL
      for (int u = 0; u < kTokenUnroll; ++u) {
        *reinterpret_cast<float4*>(tokens.grad + base + u * step) = visit_vector(loaded[u], body);
      }
    } else {
      for (int u = 0; u < kTokenUnroll; ++u) {
        const int first = base + u * step;
        store_each(tokens, first, visit_vector(load_each(tokens, first), body));
      }
    }
  }
}

// Sums, and maxima of numbers that are not negative, as their bits: so a NaN is the largest.
struct ClusterTotals {
  double sums[kClusterSums] = {};
  uint32_t maxima[kClusterMaxima] = {};

  __device__ void raise(int index, float value, bool keep) {
    const uint32_t bits = keep ? float_to_bits(value) & 0x7fffffffu : 0;
    maxima[index] = bits > maxima[index] ? bits : maxima[index];
  }
  __device__ float maximum(int index) const { return bits_to_float(maxima[index]); }
};

struct ClusterShared {
  double warps[kClusterWarps][kClusterSums];
  uint32_t warp_maxima[kClusterWarps][kClusterMaxima];
  // In the first block: what all have left there.
  double blocks[kMostGroup][kClusterSums];
  uint32_t block_maxima[kMostGroup][kClusterMaxima];
  ClusterTotals totals;
};
static_assert(kClusterWarps <= 16 && kMostGroup <= 16, "column_maxima() has 16 rows");

// The same of maxima: lane l gets that of column l % 2.
__device__ inline uint32_t column_maxima(const uint32_t (*rows)[kClusterMaxima], int count) {
  const int row = lane_index() / kClusterMaxima, column = lane_index() % kClusterMaxima;
  const uint32_t mine = row < count ? rows[row][column] : 0;
  const uint32_t even = __reduce_max_sync(kFullWarp, column == 0 ? mine : 0);
  const uint32_t odd = __reduce_max_sync(kFullWarp, column == 1 ? mine : 0);
  return column == 0 ? even : odd;
}

// Adds up all threads of the cluster, each of which has called cluster_arrive() at its begin. True
// in the thread that has the result.
__device__ inline bool merge_cluster(ClusterTotals& mine, ClusterShared& shared) {
  const int lane = lane_index(), warp = warp_index();
  const double sum = warp_totals(mine.sums);
  if (lane % 4 == 0) shared.warps[warp][lane / 4] = sum;
  RLHF_UNROLL
  for (int k = 0; k < kClusterMaxima; ++k) {
    const uint32_t most = __reduce_max_sync(kFullWarp, mine.maxima[k]);
    if (lane == 0) shared.warp_maxima[warp][k] = most;
  }
  __syncthreads();
  cluster_wait();
  if (warp == 0) {
    const double block_sum = column_sums<kClusterWarps>(shared.warps, kClusterWarps);
    const uint32_t most = column_maxima(shared.warp_maxima, kClusterWarps);
    ClusterShared* first = cluster_peer(&shared, 0);
    if (lane < kClusterSums) first->blocks[cluster_rank()][lane] = block_sum;
    if (lane < kClusterMaxima) first->block_maxima[cluster_rank()][lane] = most;
  }
  cluster_sync();
  if (cluster_rank() != 0 || warp != 0) return false;
  const double total = column_sums<kMostGroup>(shared.blocks, cluster_size());
  const uint32_t most = column_maxima(shared.block_maxima, cluster_size());
  if (lane < kClusterSums) shared.totals.sums[lane] = total;
  if (lane < kClusterMaxima) shared.totals.maxima[lane] = most;
  __syncwarp();
  mine = shared.totals;
  return lane == 0;
}

// The blocks of the one cluster that takes these tokens: a power of two, `most` at most.
inline int cluster_blocks(int64_t tokens, int most) {
  int blocks = 1;
  while (blocks < most && blocks * kClusterBlockTokens < tokens) blocks *= 2;
  return blocks;
}

// Starts kernel(tokens, aligned, args...) where one cluster can take the tokens; else false.
template <typename Kernel, typename... Args>
bool launch_cluster(const char* op, const Target& target, Kernel kernel, PerDevice& groups,
                    const MaskedTokens& tokens, const Args&... args) {
  if (tokens.count > kMostClusterTokens) return false;
  const size_t shared = sizeof(ClusterShared);
  const int most = static_cast<int>(groups.of(
      target, [&] { return largest_group(op, target, kernel, kClusterThreads, shared); }));
  if (most == 0) return false;
  const int blocks = cluster_blocks(tokens.count, most);
  launch_group(op, target, kernel, Launch{blocks, kClusterThreads, shared, blocks}, tokens,
               tokens.aligned(), args...);
  return true;
}

}  // namespace rlhf::cuda
