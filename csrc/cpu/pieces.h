// Pieces of rows that threads go through, and the memory they do it in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <utility>

namespace rlhf::cpu {

// Rows of a piece, a multiple of `unit`: enough to use weights well, the more where those leave the
// cache and are read again for every piece, and such that two threads end together.
inline int64_t piece_rows(int64_t rows, int64_t unit, int64_t weights) {
  const int64_t most = weights > (1 << 16) ? 192 : 48;
  int64_t best = unit, least = 0;
  for (int64_t piece = most / 2 / unit * unit + unit; piece <= most; piece += unit) {
    const int64_t pieces = (rows + piece - 1) / piece, longer = (pieces + 1) / 2 * piece;
    if (least == 0 || longer <= least) {
      best = piece;
      least = longer;
    }
  }
  return best;
}

// A thread's memory, kept from call to call up to some size: fresh pages would cost more than short
// work. One for each use that stands beside others.
enum class Use { kPieces, kPanels };
template <typename T, Use use = Use::kPieces>
class Room {
 public:
  explicit Room(int64_t items) {
    const size_t wanted = static_cast<size_t>(items) * sizeof(T) + kAlignment;
    if (kept().size < wanted) {
      kept() = {};  // first, so that there are never two
      kept() = {std::unique_ptr<char[]>(new char[wanted]), wanted};
    }
    const auto address = reinterpret_cast<uintptr_t>(kept().bytes.get());
    next_ = reinterpret_cast<T*>((address + kAlignment - 1) & -kAlignment);
  }
  Room(Room&& other) noexcept : next_(std::exchange(other.next_, nullptr)) {}
  ~Room() {
    if (next_ != nullptr && kept().size > kMost) kept() = {};
  }
  T* take(int64_t items) {
    T* taken = next_;
    next_ += (items + kLine - 1) / kLine * kLine;
    return taken;
  }
  // What `take` needs for all of `sizes`.
  static int64_t items(std::initializer_list<int64_t> sizes) {
    int64_t total = 0;
    for (int64_t size : sizes) total += (size + kLine - 1) / kLine * kLine;
    return total;
  }

 private:
  static constexpr uintptr_t kAlignment = 64;
  static constexpr int64_t kLine = kAlignment / sizeof(T);
  static constexpr size_t kMost = 64 << 20;  // bytes

  struct Memory {
    std::unique_ptr<char[]> bytes;
    size_t size = 0;
  };
  static Memory& kept() {
    static thread_local Memory memory;
    return memory;
  }

  T* next_;
};

// body(begin, end, state) for pieces of [0, count); make() gives each thread that has one its
// state.
template <typename Make, typename Body>
void parallel_pieces(int64_t count, int64_t piece, const Make& make, const Body& body) {
  const int64_t pieces = (count + piece - 1) / piece;
  std::exception_ptr problem;  // no memory, say; nothing may be thrown out of the region
#ifdef _OPENMP
#pragma omp parallel if (pieces > 1)
#endif
  {
    std::unique_ptr<decltype(make())> state;
    bool failed = false;
    // The same rows to the same thread in every call: they are in its cache.
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
    for (int64_t index = 0; index < pieces; ++index) {
      if (failed) continue;
      try {
        if (!state) state = std::make_unique<decltype(make())>(make());
        body(index * piece, std::min(count, (index + 1) * piece), *state);
      } catch (...) {
        failed = true;
#ifdef _OPENMP
#pragma omp critical(rlhf_pieces)
#endif
        problem = std::current_exception();
      }
    }
  }
  if (problem) std::rethrow_exception(problem);
}

}  // namespace rlhf::cpu
