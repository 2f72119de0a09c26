// ppo_loss_from_logits in place for a row that stays in shared memory between the two passes: one
// read and one write of the logits. What is computed: ppo_loss_from_logits.cu.
#pragma once

#include <cstdlib>
#include <cstring>

#include "cuda/ppo_row_terms.cuh"
#include "cuda/row_resident.cuh"

namespace rlhf::cuda {
namespace {

template <typename S>
struct ResidentObjective {
  Rows<S> logits;
  Targets targets;
  Temperatures temperatures;
  RowTokens tokens;
  SavedRow* saved;
  ObjectiveSpace space;
};

struct ResidentShared {
  ResidentBarriers barriers;
  RowShared row;
  RowGradient gradient;
};
constexpr int kSlotsBegin = (sizeof(ResidentShared) + 127) / 128 * 128;

// Granules of the row from a slot, as their gradient. An element's gradient depends on the element
// and the row alone, so that they may be cut where 16-byte stores are possible.
template <typename S, GradientKind kKind, bool kCareful>
__device__ void write_granules(const RowPlace<S>& place, const uint4* slot, int origin, int end,
                               const RowGradient& k) {
  const int begin_whole = place.phase == 0 ? 0 : 1;
  const int64_t bytes = place.phase + place.vocab * static_cast<int64_t>(sizeof(S));
  const int end_whole = static_cast<int>(bytes / 16);
  for (int index = origin + lane_index(); index < end; index += kWarpSize) {
    uint32_t words[kWords];
    store_words(slot[index - origin], words);
    RLHF_UNROLL
    for (int i = 0; i < kWords; ++i) {
      words[i] = gradient_word<S, kKind, kCareful>(words[i], words[i], k);
    }
    if (index >= begin_whole && index < end_whole) {
      store_words(words, place.granule(index));
      continue;
    }
    S elements[kPack<S>];
    memcpy(elements, words, sizeof(elements));
    const int first = index * kPack<S> - place.phase / static_cast<int>(sizeof(S));
    RLHF_UNROLL
    for (int i = 0; i < kPack<S>; ++i) {
      if (first + i >= 0 && first + i < place.vocab) place.row[first + i] = elements[i];
    }
  }
}

template <typename S>
__device__ void write_share(const RowPlace<S>& place, const ResidentShare<S>& share,
                            const RowGradient& k) {
  const bool entropy = k.kind == GradientKind::kEntropy;
  share.for_granules([&](const uint4* slot, int origin, int end) {
    if (k.careful && entropy) {
      write_granules<S, GradientKind::kEntropy, true>(place, slot, origin, end, k);
    } else if (k.careful) {
      write_granules<S, GradientKind::kPlain, true>(place, slot, origin, end, k);
    } else if (entropy) {
      write_granules<S, GradientKind::kEntropy, false>(place, slot, origin, end, k);
    } else {
      write_granules<S, GradientKind::kPlain, false>(place, slot, origin, end, k);
    }
  });
}

// What the first thread reads of a row, while the row itself is under way.
struct RowAhead {
  RowInputs inputs;
  int target;
  double logit;
};

template <typename S>
__device__ RowAhead read_ahead(const ResidentObjective<S>& in, int64_t row) {
  if (threadIdx.x != 0) return {};
  const int target = in.targets.of(row, in.logits.vocab);
  return {in.tokens.inputs_of(row), target,
          target < 0 ? NAN : logit_at(in.logits.row(row), target)};
}

// By the first warp, between two barriers: the row's terms, and what its gradient needs.
template <typename S>
__device__ void finish_resident(const ResidentObjective<S>& in, int64_t row, const RowAhead& ahead,
                                ResidentShared* shared) {
  merge_warps(kResidentWarps, &shared->row);
  if (threadIdx.x != 0) return;
  SavedRow saved;
  saved.inverse_temperature = ahead.target < 0 ? NAN : shared->row.inverse_temperature;
  saved = finish_row(in.tokens, ahead.inputs, in.space.means(), shared->row.state, ahead.logit,
                     saved, false, 0.0, in.space.row(row));
  in.saved[row] = saved;
  shared->gradient = make_gradient<S>(in.logits.row(row), nullptr, ahead.target, saved, 1.0);
}

template <typename S>
__global__ void __launch_bounds__(kResidentThreads, kResidentBlocks)
    objective_resident_kernel(ResidentObjective<S> in) {
  const int64_t row = blockIdx.x;
  const RowPlace<S> place(in.logits.row(row), in.logits.vocab);
  if (!in.tokens.counts(row)) {
    if (threadIdx.x == 0) in.saved[row] = SavedRow();
    return zero_row(place.vocab, place.row);
  }
  ResidentShared* shared = &block_shared<ResidentShared>();
  if (threadIdx.x == 0) make_barriers(&shared->barriers);
  __syncthreads();
  const ResidentShare<S> share(place, &shared->barriers,
                               &block_shared<unsigned char>() + kSlotsBegin);
  share.ask(Extent::of(in.logits, in.space.rows));
  const RowAhead ahead = read_ahead(in, row);
  const double inverse = in.temperatures.inverse_of(row);
  const float scale = row_scale(inverse);
  if (threadIdx.x == 0) shared->row.inverse_temperature = inverse;
  StreamSums lane;
  share.read([&](auto& words) { stream_step<S>(words, scale, &lane); });
  leave_sums(lane, scale, &shared->row.warps[warp_index()]);
  reread_extreme(place.row, place.vocab, share.range(), scale, &shared->row.warps[warp_index()]);
  __syncthreads();
  if (warp_index() == 0) finish_resident(in, row, ahead, shared);
  __syncthreads();
  const RowGradient& gradient = shared->gradient;
  if (gradient.kind == GradientKind::kZero) return zero_row(place.vocab, place.row);
  write_share(place, share, gradient);
  if (gradient.target < 0) return;
  __syncthreads();
  if (threadIdx.x == 0) from_float(gradient.target_value, place.row + gradient.target);
}

// Whether rows take this kernel; its results are those of the kernels of every device, bit for bit.
// RLHF_KERNELS_ROWS=portable keeps to these, for comparison.
template <typename S>
bool use_resident(const char* op, const Target& target, int64_t vocab) {
  const char* asked = std::getenv("RLHF_KERNELS_ROWS");
  if (asked != nullptr && std::strcmp(asked, "portable") == 0) return false;
  return compute_capability(op, target) >= kResidentCapability &&
         fits_resident<S>(vocab, kSlotsBegin);
}

template <typename S>
void launch_resident(const char* op, const Target& target, const ResidentObjective<S>& in) {
  Launch launch = {};
  launch.blocks = in.space.rows;
  launch.threads = kResidentThreads;
  launch.shared_bytes =
      static_cast<size_t>(kSlotsBegin + kResidentWarps * resident_bytes<S>(in.logits.vocab));
  launch_group(op, target, objective_resident_kernel<S>, launch, in);
}

}  // namespace
}  // namespace rlhf::cuda
