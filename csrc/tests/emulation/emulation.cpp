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
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr int kWarp = 32;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
  State state = State::kDone;
  Place place = {"", 0};
  uint64_t handed_in = 0;
  bool vote = false;
};

[[noreturn]] void die(const char* problem, Place place) {
  std::fprintf(stderr, "emulation: %s at %s:%d\n", problem, place.file, place.line);
  std::abort();
}

class Machine {
 public:
  void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
    if (threads % kWarp != 0 || threads > 1024) die("threads must be whole warps up to 1024", {});
    kernel_ = &kernel;
    grid_ = blocks;
    while (fibers_.size() < static_cast<size_t>(threads)) fibers_.emplace_back(new Fiber);
    threads_ = threads;
    order_.resize(static_cast<size_t>(threads));
    std::iota(order_.begin(), order_.end(), 0);
    const char* name = std::getenv("RLHF_EMULATION_ORDER");
    mode_ = name ? name : "forward";
    if (mode_ == "reverse") std::reverse(order_.begin(), order_.end());
    // Exactly the size asked for: one byte too far is an error under the address sanitizer.
    std::unique_ptr<char[]> shared(new char[shared_bytes]);
    shared_ = shared.get();
    for (int64_t i = 0; i < blocks; ++i) {
      block_ = mode_ == "forward" ? i : blocks - 1 - i;
      std::memset(shared_, 0xff, shared_bytes);
      run_block();
    }
  }

  void run_block() {
    for (int t = 0; t < threads_; ++t) start(*fibers_[t]);
    while (step()) {
    }
  }

  int thread() const { return current_; }
  int64_t block() const { return block_; }
  int threads() const { return threads_; }
  int64_t grid() const { return grid_; }
  void* shared() const { return shared_; }
  Fiber& fiber(int index) { return *fibers_[static_cast<size_t>(index)]; }
  const std::function<void()>& kernel() const { return *kernel_; }

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

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    fiber.fake_stack = nullptr;
    fiber.state = State::kReady;
    makecontext(&fiber.context, body, 0);
  }

  // Lets every ready thread run until it waits; false when the block has ended.
  bool step() {
    if (mode_ == "shuffled") std::shuffle(order_.begin(), order_.end(), random_);
    bool ran = false;
    for (const int t : order_) {
      if (fiber(t).state != State::kReady) continue;
      ran = true;
      current_ = t;
      void* fake = nullptr;
      __sanitizer_start_switch_fiber(&fake, fiber(t).stack.get(), kStackBytes);
      swapcontext(&main_, &fiber(t).context);
      __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
    }
    for (int first = 0; first < threads_; first += kWarp) release_warp(first);
    return ran ? true : release_block();
  }

  void release_warp(int first) {
    const Fiber& lead = fiber(first);
    for (int t = first; t < first + kWarp; ++t) {
      if (fiber(t).state != State::kAtWarp || fiber(t).place.line != lead.place.line) return;
    }
    for (int t = first; t < first + kWarp; ++t) {
      results_[static_cast<size_t>(t)] = fiber(t).handed_in;
      votes_[static_cast<size_t>(t)] = fiber(t).vote;
    }
    for (int t = first; t < first + kWarp; ++t) fiber(t).state = State::kReady;
  }

  bool release_block() {
    int waiting = 0, ready = 0, done = 0;
    for (int t = 0; t < threads_; ++t) {
      waiting += fiber(t).state == State::kAtBlock;
      ready += fiber(t).state == State::kReady;
      done += fiber(t).state == State::kDone;
    }
    if (ready > 0) return true;
    if (done == threads_) return false;
    for (int t = 0; t < threads_; ++t) {
      if (fiber(t).state == State::kAtWarp)
        die("part of a warp did not reach this", fiber(t).place);
    }
    for (int t = 0; t < threads_; ++t) {
      if (waiting == threads_ && fiber(t).place.line == fiber(0).place.line) continue;
      die("part of a block did not reach this barrier",
          fiber(fiber(t).state == State::kAtBlock ? t : 0).place);
    }
    for (int t = 0; t < threads_; ++t) fiber(t).state = State::kReady;
    return true;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<int> order_;
  std::string mode_;
  std::mt19937 random_{1};
  ucontext_t main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  int threads_ = 0;
  int current_ = 0;
  int64_t block_ = 0;
  int64_t grid_ = 0;
  char* shared_ = nullptr;

 public:
  uint64_t results_[1024] = {};
  bool votes_[1024] = {};
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

}  // namespace

void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
  machine().run(blocks, threads, shared_bytes, kernel);
}

uint3 thread_index() { return {static_cast<unsigned>(machine().thread()), 0, 0}; }
uint3 block_index() { return {static_cast<unsigned>(machine().block()), 0, 0}; }
uint3 block_dim() { return {static_cast<unsigned>(machine().threads()), 1, 1}; }
uint3 grid_dim() { return {static_cast<unsigned>(machine().grid()), 1, 1}; }
void* shared_memory() { return machine().shared(); }
int lane() { return machine().thread() % kWarp; }

void wait_for_block(Place place) { machine().wait(State::kAtBlock, place); }

uint64_t exchange(Place place, uint64_t bits, int lane) {
  const int self = machine().thread();
  machine().fiber(self).handed_in = bits;
  machine().wait(State::kAtWarp, place);
  return machine().results_[self - self % kWarp + lane];
}

uint32_t vote(Place place, bool predicate) {
  const int self = machine().thread();
  machine().fiber(self).vote = predicate;
  machine().wait(State::kAtWarp, place);
  uint32_t bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    bits |= static_cast<uint32_t>(machine().votes_[self - self % kWarp + lane]) << lane;
  }
  return bits;
}

}  // namespace emulation
