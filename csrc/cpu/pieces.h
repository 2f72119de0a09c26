// Pieces of rows that threads go through, and the memory they do it in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <thread>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rlhf::cpu {

// Rows of a piece, a multiple of `unit` and some `most`, such that two threads end together.
inline int64_t piece_rows(int64_t rows, int64_t unit, int64_t most) {
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

// What a thread of a team knows of itself; the same piece goes to the same thread in every call,
// whose cache it is in.
class Member {
 public:
  Member(int rank, int size, std::atomic<int>* arrived)
      : rank_(rank), size_(size), arrived_(arrived) {}

  // Wait for all others, for moments: a thread that slept would take longer to wake.
  void meet() {
    met_ += size_;
    arrived_->fetch_add(1, std::memory_order_acq_rel);
    wait(met_);
  }
  // The first waits for the others to be done, and is then the last to leave: it need not be woken.
  void part() {
    met_ += size_;
    arrived_->fetch_add(1, std::memory_order_acq_rel);
    if (rank_ == 0) wait(met_);
  }
  // This thread's share of [0, count): one stretch, [begin, end).
  std::pair<int64_t, int64_t> share(int64_t count) const {
    return {count * rank_ / size_, count * (rank_ + 1) / size_};
  }
  // each(index) for it.
  template <typename Each>
  void for_share(int64_t count, const Each& each) const {
    const auto [begin, end] = share(count);
    for (int64_t index = begin; index < end; ++index) each(index);
  }

 private:
  void wait(int all) const {
    for (int turn = 0; arrived_->load(std::memory_order_acquire) < all; ++turn) {
      if (turn > kTurns) std::this_thread::yield();  // another process may need the core
    }
  }
  static constexpr int kTurns = 4000;  // some 20 microseconds

  int rank_, size_, met_ = 0;
  std::atomic<int>* arrived_;
};

// In each thread of a team, of one where `several` is false: its share of prepare(index) for
// [0, preparations), and once all are done with that, use(member, state). make() gives a thread its
// state. Only make() may throw.
template <typename Prepare, typename Make, typename Use>
void parallel_team(bool several, int64_t preparations, const Prepare& prepare, const Make& make,
                   const Use& use) {
  std::atomic<int> arrived{0};
  std::exception_ptr problem;  // no memory, say; nothing may be thrown out of the region
  const auto work = [&](Member member) {
    std::unique_ptr<decltype(make())> state;
    try {
      state = std::make_unique<decltype(make())>(make());
    } catch (...) {
#ifdef _OPENMP
#pragma omp critical(rlhf_pieces)
#endif
      problem = std::current_exception();
    }
    member.for_share(preparations, prepare);
    member.meet();
    if (!problem) use(member, *state);
    member.part();
  };
#ifdef _OPENMP
#pragma omp parallel if (several)
  work(Member(omp_get_thread_num(), omp_get_num_threads(), &arrived));
#else
  work(Member(0, 1, &arrived));
#endif
  if (problem) std::rethrow_exception(problem);
}

// In each thread of a team, after preparations as above: its share of body(begin, end, state) for
// pieces of [0, count), and once all are done with that, of finish(index) for [0, blocks).
template <typename Prepare, typename Make, typename Body, typename Finish>
void parallel_passes(int64_t preparations, const Prepare& prepare, int64_t count, int64_t piece,
                     const Make& make, const Body& body, int64_t blocks, const Finish& finish) {
  const int64_t pieces = (count + piece - 1) / piece;
  parallel_team(pieces > 1, preparations, prepare, make, [&](Member& member, auto& state) {
    member.for_share(pieces, [&](int64_t index) {
      body(index * piece, std::min(count, (index + 1) * piece), state);
    });
    if (blocks > 0) member.meet();
    member.for_share(blocks, finish);
  });
}

}  // namespace rlhf::cpu
