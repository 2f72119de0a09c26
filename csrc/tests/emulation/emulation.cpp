// The scheduler behind the emulated cuda_runtime.h.
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace emulation {
namespace {

// Thousands of fibers may exist at once; only the pages that they touch count.
constexpr size_t kStackBytes = 128 * 1024;
constexpr int kWarp = 32;
constexpr int kMostIdleRounds = 20000;

enum class State { kReady, kAtWarp, kAtBlock, kAtCluster, kAtGrid, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
  State state = State::kDone;
  Place place = {"", 0};
  uint64_t handed_in = 0;
  bool vote = false;
  // What the warp handed in when it was last complete.
  uint64_t result = 0;
  bool voted = false;
};

[[noreturn]] void die(const char* problem, Place place) {
  std::fprintf(stderr, "emulation: %s at %s:%d\n", problem, place.file, place.line);
  std::abort();
}

class Machine {
 public:
  void run(const Launch& launch, const std::function<void()>& kernel) {
    if (launch.threads % kWarp != 0 || launch.threads > 1024) {
      die("threads must be whole warps up to 1024", {"", 0});
    }
    if (launch.group < 1 || launch.group > 16 || launch.blocks % launch.group != 0) {
      die("blocks must be whole clusters of at most 16", {"", 0});
    }
    if (launch.blocks == 0) return;
    launch_ = launch;
    kernel_ = &kernel;
    const int64_t together = launch.cooperative ? launch.blocks : launch.group;
    count_ = static_cast<int>(together) * launch.threads;
    while (fibers_.size() < static_cast<size_t>(count_)) fibers_.emplace_back(new Fiber);
    order_.resize(static_cast<size_t>(count_));
    std::iota(order_.begin(), order_.end(), 0);
    const char* name = std::getenv("RLHF_EMULATION_ORDER");
    mode_ = name ? name : "forward";
    if (mode_ == "reverse") std::reverse(order_.begin(), order_.end());
    for (int64_t i = 0; i < launch.blocks; i += together) {
      first_block_ = mode_ == "forward" ? i : launch.blocks - together - i;
      run_blocks(static_cast<size_t>(together));
    }
  }

  int thread() const { return current_ % launch_.threads; }
  int64_t block() const { return first_block_ + local_block(); }
  const Launch& launch() const { return launch_; }
  void* shared() const { return shared_[static_cast<size_t>(local_block())].get(); }
  Fiber& fiber(int index) { return *fibers_[static_cast<size_t>(index)]; }
  Fiber& self() { return fiber(current_); }
  Fiber& in_warp(int lane) { return fiber(current_ - current_ % kWarp + lane); }
  const std::function<void()>& kernel() const { return *kernel_; }

  void* peer(void* mine, int rank) {
    const int own = local_block();
    const auto offset = static_cast<char*>(mine) - shared_[static_cast<size_t>(own)].get();
    if (rank < 0 || rank >= launch_.group || offset < 0 ||
        offset >= static_cast<std::ptrdiff_t>(launch_.shared_bytes)) {
      die("no such place in the cluster's shared memory", {"", 0});
    }
    char* base = shared_[static_cast<size_t>(own - own % launch_.group + rank)].get();
    if (base == nullptr) die("the shared memory of a block that has ended is asked for", {"", 0});
    return base + offset;
  }

  void wait(State state, Place place) {
    Fiber& self = fiber(current_);
    self.state = state;
    self.place = place;
    __sanitizer_start_switch_fiber(&self.fake_stack, main_stack_, main_size_);
    swapcontext(&self.context, &main_);
    __sanitizer_finish_switch_fiber(self.fake_stack, &main_stack_, &main_size_);
  }

  [[noreturn]] void finish() {
    fiber(current_).state = State::kDone;
    __sanitizer_start_switch_fiber(nullptr, main_stack_, main_size_);
    setcontext(&main_);
    std::abort();
  }

  void entered() { __sanitizer_finish_switch_fiber(nullptr, &main_stack_, &main_size_); }

 private:
  static void body();

  int local_block() const { return current_ / launch_.threads; }

  void run_blocks(size_t blocks) {
    shared_.resize(blocks);
    for (auto& shared : shared_) {
      // Exactly the size asked for: one byte too far is an error under the address sanitizer.
      shared.reset(new char[launch_.shared_bytes]);
      std::memset(shared.get(), 0xff, launch_.shared_bytes);
    }
    for (int f = 0; f < count_; ++f) start(fiber(f));
    idle_rounds_ = 0;
    while (step()) {
    }
  }

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    fiber.fake_stack = nullptr;
    fiber.state = State::kReady;
    makecontext(&fiber.context, body, 0);
  }

  // Lets every ready thread run until it waits; false when all have ended.
  bool step() {
    if (mode_ == "shuffled") std::shuffle(order_.begin(), order_.end(), random_);
    int ran = -1;
    bool moved = false;
    for (const int f : order_) {
      if (fiber(f).state != State::kReady) continue;
      ran = current_ = f;
      void* fake = nullptr;
      __sanitizer_start_switch_fiber(&fake, fiber(f).stack.get(), kStackBytes);
      swapcontext(&main_, &fiber(f).context);
      __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
      moved = moved || fiber(f).state != State::kReady;
    }
    end_blocks();
    const int threads = launch_.threads;
    moved = release(State::kAtWarp, kWarp) || moved;
    moved = release(State::kAtBlock, threads) || moved;
    moved = release(State::kAtCluster, threads * launch_.group) || moved;
    if (launch_.cooperative) moved = release(State::kAtGrid, count_) || moved;
    idle_rounds_ = moved ? 0 : idle_rounds_ + 1;
    if (ran < 0 && !moved) return explain();
    if (idle_rounds_ > kMostIdleRounds) die("threads spin and nothing changes", fiber(ran).place);
    return true;
  }

  // Lets each run of `size` fibers go on that all wait at one place for each other.
  bool release(State state, int size) {
    bool any = false;
    for (int first = 0; first < count_; first += size) {
      const int line = fiber(first).place.line;
      int f = first;
      while (f < first + size && fiber(f).state == state && fiber(f).place.line == line) ++f;
      if (f < first + size) continue;
      any = true;
      for (f = first; f < first + size; ++f) {
        fiber(f).result = fiber(f).handed_in;
        fiber(f).voted = fiber(f).vote;
        fiber(f).state = State::kReady;
      }
    }
    return any;
  }

  // The shared memory of a block ends with its last thread.
  void end_blocks() {
    for (size_t b = 0; b < shared_.size(); ++b) {
      const int first = static_cast<int>(b) * launch_.threads;
      int f = first;
      while (f < first + launch_.threads && fiber(f).state == State::kDone) ++f;
      if (f < first + launch_.threads || !shared_[b]) continue;
      std::memset(shared_[b].get(), 0xff, launch_.shared_bytes);
      shared_[b].reset();
    }
  }

  // When no thread can run: all have ended, or some wait for others in vain.
  bool explain() {
    static constexpr std::pair<State, const char*> kProblems[] = {
        {State::kAtWarp, "part of a warp did not reach this"},
        {State::kAtBlock, "part of a block did not reach this barrier"},
        {State::kAtCluster, "part of a cluster did not reach this barrier"},
        {State::kAtGrid, "part of the grid did not reach this barrier (is it cooperative?)"}};
    for (const auto& problem : kProblems) {
      for (int f = 0; f < count_; ++f) {
        if (fiber(f).state == problem.first) die(problem.second, fiber(f).place);
      }
    }
    return false;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::unique_ptr<char[]>> shared_;
  std::vector<int> order_;
  std::string mode_;
  std::mt19937 random_{1};
  ucontext_t main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  Launch launch_ = {};
  int64_t first_block_ = 0;
  int count_ = 0;
  int current_ = 0;
  int idle_rounds_ = 0;
};

Machine& machine() {
  static Machine instance;
  return instance;
}

void Machine::body() {
  machine().entered();
  machine().kernel()();
  machine().finish();
}

uint3 along_x(int64_t x, unsigned rest) { return {static_cast<unsigned>(x), rest, rest}; }

}  // namespace

Device& device() {
  static Device instance;
  return instance;
}

void run(const Launch& launch, const std::function<void()>& kernel) {
  machine().run(launch, kernel);
}

uint3 thread_index() { return along_x(machine().thread(), 0); }
uint3 block_index() { return along_x(machine().block(), 0); }
uint3 block_dim() { return along_x(machine().launch().threads, 1); }
uint3 grid_dim() { return along_x(machine().launch().blocks, 1); }
void* shared_memory() { return machine().shared(); }
int lane() { return machine().thread() % kWarp; }

void wait_for_block(Place place) { machine().wait(State::kAtBlock, place); }
void wait_for_cluster(Place place) { machine().wait(State::kAtCluster, place); }
void wait_for_grid(Place place) { machine().wait(State::kAtGrid, place); }
void yield(Place place) { machine().wait(State::kReady, place); }

int cluster_rank() { return static_cast<int>(machine().block() % machine().launch().group); }
int cluster_size() { return machine().launch().group; }
void* peer(void* mine, int rank) { return machine().peer(mine, rank); }

uint64_t exchange(Place place, uint64_t bits, int lane) {
  machine().self().handed_in = bits;
  machine().wait(State::kAtWarp, place);
  return machine().in_warp(lane).result;
}

uint32_t highest(Place place, uint32_t value) {
  machine().self().handed_in = value;
  machine().wait(State::kAtWarp, place);
  uint64_t best = 0;
  for (int lane = 0; lane < kWarp; ++lane) best = std::max(best, machine().in_warp(lane).result);
  return static_cast<uint32_t>(best);
}

uint32_t vote(Place place, bool predicate) {
  machine().self().vote = predicate;
  machine().wait(State::kAtWarp, place);
  uint32_t bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    bits |= static_cast<uint32_t>(machine().in_warp(lane).voted) << lane;
  }
  return bits;
}

}  // namespace emulation
