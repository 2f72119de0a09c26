// A row of logits that stays in shared memory between two passes over it (compute capability 9.0).
//
// Each warp of the block has the share of the row that for_shares() gives it, in chunks of kChunk
// vectors with a slot each. It asks for all of them at once, and reads one as soon as it is there,
// in the order of sum_share(): the results are the same bit for bit. Two blocks share a
// multiprocessor, so that the copies of one run while the other computes.
//
// A slot holds the aligned 16-byte granules in which its vectors lie, one more than vectors where
// the row does not begin on a granule. What a granule has of memory outside the tensor is not
// copied. In a share's last slot what follows the share is made -inf.
#pragma once

#include "cuda/async.cuh"
#include "cuda/row_gradient.cuh"

namespace rlhf::cuda {

constexpr int kResidentCapability = 90;
constexpr int kChunk = 4 * kRowUnroll * kWarpSize;  // vectors; whole steps of for_vectors()
constexpr int kMaxChunks = 2;                       // of a share
constexpr int kResidentWarps = 8;
constexpr int kResidentThreads = kResidentWarps * kWarpSize;
constexpr int kResidentBlocks = 2;  // of a multiprocessor

RLHF_HD int resident_slot(int vectors) {
  return ((vectors + kWarpSize - 1) / kWarpSize * kWarpSize + 1) * 16;
}

// Bytes of a warp's slots together.
template <typename S>
RLHF_HD int resident_bytes(int64_t vocab) {
  const int64_t vectors = (vocab + kPack<S> - 1) / kPack<S>;
  const int share = static_cast<int>((vectors + kResidentWarps - 1) / kResidentWarps);
  const int full = (share - 1) / kChunk;
  return full * resident_slot(kChunk) + resident_slot(share - full * kChunk);
}

// Whether rows have as many shares as a block has warps, and `held` bytes beside their slots leave
// room for another block on the multiprocessor.
template <typename S>
bool fits_resident(int64_t vocab, size_t held) {
  constexpr int64_t kMostBytes = 233472 / kResidentBlocks - 1024;
  if (row_shares<S>(vocab) != kResidentWarps) return false;
  const int64_t bytes = int64_t{kResidentWarps} * resident_bytes<S>(vocab);
  return bytes <= int64_t{kResidentWarps} * kMaxChunks * resident_slot(kChunk) &&
         static_cast<int64_t>(held) + bytes <= kMostBytes;
}

struct ResidentBarriers {
  Barrier full[kResidentWarps][kMaxChunks];
};

// By one thread, before a barrier of the block.
__device__ inline void make_barriers(ResidentBarriers* barriers) {
  for (int warp = 0; warp < kResidentWarps; ++warp) {
    for (int chunk = 0; chunk < kMaxChunks; ++chunk) barrier_init(&barriers->full[warp][chunk], 1);
  }
  barriers_made();
}

// The bytes of a tensor of rows.
struct Extent {
  uintptr_t begin;
  uintptr_t end;

  template <typename S>
  __device__ static Extent of(const Rows<S>& rows, int64_t count) {
    return {reinterpret_cast<uintptr_t>(rows.base),
            reinterpret_cast<uintptr_t>(rows.row(count - 1) + rows.vocab)};
  }
};

// Where a row lies: granule 0 is the one in which it begins.
template <typename S>
struct RowPlace {
  S* row;
  int phase;  // bytes from granule 0 to the row
  int count;  // granules
  int vocab;

  __device__ RowPlace(S* begin, int columns)
      : row(begin),
        phase(static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16)),
        count(static_cast<int>((phase + columns * static_cast<int64_t>(sizeof(S)) + 15) / 16)),
        vocab(columns) {}
  __device__ uint4* granule(int index) const {
    return reinterpret_cast<uint4*>(reinterpret_cast<char*>(row) - phase) + index;
  }
};

// Of a granule, what lies inside the tensor.
template <typename S>
__device__ void copy_edge(const uint4* granule, const Extent& extent, uint4* to) {
  if (lane_index() >= kPack<S>) return;
  const S* element = reinterpret_cast<const S*>(granule) + lane_index();
  const uintptr_t address = reinterpret_cast<uintptr_t>(element);
  if (address < extent.begin || address >= extent.end) return;
  reinterpret_cast<S*>(to)[lane_index()] = *element;
}

// By the warp, which no longer reads the slot: asks for `count` vectors of the row from `origin`.
template <typename S>
__device__ void ask_for(const RowPlace<S>& place, int origin, int count, const Extent& extent,
                        uint4* slot, Barrier* full) {
  int begin = origin, end = min(origin + count + 1, place.count);
  const bool before = reinterpret_cast<uintptr_t>(place.granule(begin)) < extent.begin;
  const bool after = reinterpret_cast<uintptr_t>(place.granule(end)) > extent.end;
  if (before) copy_edge<S>(place.granule(begin++), extent, slot);
  if (after && end > begin) {
    --end;
    copy_edge<S>(place.granule(end), extent, slot + (end - origin));
  }
  __syncwarp();
  if (lane_index() != 0) return;
  const uint32_t bytes = static_cast<uint32_t>(end - begin) * 16u;
  barrier_expect(full, bytes);
  if (bytes > 0) bulk_load(slot + (begin - origin), place.granule(begin), bytes, full);
}

// Makes what follows the slot's `count` vectors, or the row, -inf, as far as lanes read.
template <typename S>
__device__ void fill_past_end(const RowPlace<S>& place, int origin, int count, uint4* slot) {
  S* elements = reinterpret_cast<S*>(reinterpret_cast<char*>(slot) + place.phase);
  const int begin = min(count * kPack<S>, place.vocab - origin * kPack<S>);
  const int end = resident_slot(count) / static_cast<int>(sizeof(S)) -
                  place.phase / static_cast<int>(sizeof(S));
  for (int i = begin + lane_index(); i < end; i += kWarpSize) from_float(-HUGE_VALF, elements + i);
  __syncwarp();
}

// A warp's share of the block's row, in its slots.
template <typename S>
class ResidentShare {
 public:
  __device__ ResidentShare(const RowPlace<S>& place, ResidentBarriers* barriers,
                           unsigned char* slots)
      : place_(place),
        barriers_(barriers->full[warp_index()]),
        slots_(slots + warp_index() * resident_bytes<S>(place.vocab)),
        range_(range_of_warp(vector_count<S>(place.vocab), warp_index(), kResidentWarps)) {}

  __device__ VectorRange range() const { return range_; }

  __device__ void ask(const Extent& extent) const {
    for (int chunk = 0; chunk < chunks(); ++chunk) {
      ask_for(place_, origin(chunk), vectors(chunk), extent, slot(chunk), &barriers_[chunk]);
    }
  }

  // body(words) as for_vectors() has it.
  template <typename Body>
  __device__ void read(const Body& body) const {
    for (int chunk = 0; chunk < chunks(); ++chunk) {
      const int count = vectors(chunk), lane = lane_index();
      uint4* data = slot(chunk);
      barrier_wait(&barriers_[chunk], 0);
      if (chunk + 1 == chunks()) fill_past_end(place_, origin(chunk), count, data);
      int v = 0;
      for (; v + kRowUnroll * kWarpSize <= count; v += kRowUnroll * kWarpSize) {
        uint32_t words[kRowUnroll * kWords];
        read_vectors<S, kRowUnroll>(data, v + lane, place_.phase, words);
        body(words);
      }
      for (; v < count; v += kWarpSize) {
        uint32_t words[kWords];
        read_vectors<S, 1>(data, v + lane, place_.phase, words);
        body(words);
      }
    }
  }

  // body(slot, origin, end): the granules [origin, end) that this warp owns, from slot[0] on.
  template <typename Body>
  __device__ void for_granules(const Body& body) const {
    for (int chunk = 0; chunk < chunks(); ++chunk) {
      const int end = origin(chunk) + vectors(chunk);
      const bool last = end * static_cast<int64_t>(kPack<S>) >= place_.vocab;
      body(slot(chunk), origin(chunk), last ? place_.count : end);
    }
  }

 private:
  __device__ int chunks() const { return (range_.end - range_.begin + kChunk - 1) / kChunk; }
  __device__ int origin(int chunk) const { return range_.begin + chunk * kChunk; }
  __device__ int vectors(int chunk) const { return min(kChunk, range_.end - origin(chunk)); }
  __device__ uint4* slot(int chunk) const {
    return reinterpret_cast<uint4*>(slots_ + chunk * resident_slot(kChunk));
  }

  RowPlace<S> place_;
  Barrier* barriers_;
  unsigned char* slots_;
  VectorRange range_;
};

}  // namespace rlhf::cuda
