// Blocks that run at the same time, on the emulation: clusters, a cooperative grid, spinning.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "cuda/cluster.cuh"
#include "tests/cuda/tokens.h"

using namespace rlhf;
using namespace rlhf::cuda;

namespace {

struct Mail {
  double values[64];
};

// The second half of the cluster does not wait.
__global__ void half_a_cluster_kernel() {
  if (cluster_rank() < cluster_size() / 2) cluster_sync();
}

// Block 1 reads what block 0 may no longer have.
__global__ void late_reader_kernel(double* out) {
  Mail& mail = block_shared<Mail>();
  mail.values[threadIdx.x] = 1.0;
  cluster_sync();
  if (cluster_rank() == 0) return;
  for (int i = 0; i < 5; ++i) __syncthreads();
  out[threadIdx.x] = cluster_peer(&mail, 0)->values[threadIdx.x];
}

// Every thread reads the same thread of each block of its cluster, in the order of the ranks.
__global__ void exchange_kernel(double* out) {
  Mail& mail = block_shared<Mail>();
  const auto thread = static_cast<int>(threadIdx.x);
  mail.values[thread] = 1000.0 * blockIdx.x + thread;
  cluster_sync();
  double sum = 0;
  for (int rank = 0; rank < cluster_size(); ++rank) {
    sum = 3 * sum + cluster_peer(&mail, rank)->values[thread];
  }
  cluster_sync();
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum + cluster_rank();
}

// Block 0 adds up what all blocks have left.
__global__ void grid_sum_kernel(double* left, double* sum) {
  if (threadIdx.x == 0) left[blockIdx.x] = 1.0 + blockIdx.x;
  grid_sync();
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  for (unsigned block = 0; block < gridDim.x; ++block) *sum += left[block];
}

struct Flag {
  int ready;
};

// Warp 0 spins until block 1 has raised its flag, which happens behind barriers of that
// block; forever when nobody raises it.
__global__ void spin_kernel(bool raise, double* out) {
  Flag& flag = block_shared<Flag>();
  if (threadIdx.x == 0) flag.ready = 0;
  cluster_sync();
  if (cluster_rank() == 1) {
    for (int i = 0; i < 5; ++i) __syncthreads();
    if (threadIdx.x == 0 && raise) cluster_peer(&flag, 0)->ready = 1;
  } else if (warp_index() == 0) {
    while (*static_cast<volatile int*>(&flag.ready) == 0) emulation::yield(EMULATION_HERE);
    if (__all_sync(kFullWarp, true)) out[threadIdx.x] = 7.0;
  }
  cluster_sync();
}

Target target() {
  static std::vector<float> any(1);
  return Target(test::on_cuda(test::view_of(any)));
}

void check_clusters() {
  for (const int group : {1, 2, 8}) {
    const int64_t blocks = 2 * group;
    std::vector<double> out(static_cast<size_t>(64 * blocks), -1.0);
    launch_group("test", target(), exchange_kernel, Launch{blocks, 64, sizeof(Mail), group},
                 out.data());
    for (int64_t i = 0; i < 64 * blocks; ++i) {
      const int64_t block = i / 64, first = block - block % group;
      double sum = 0;
      for (int64_t b = first; b < first + group; ++b) {
        sum = 3 * sum + 1000.0 * static_cast<double>(b) + static_cast<double>(i % 64);
      }
      CHECK(out[static_cast<size_t>(i)] == sum + static_cast<double>(block % group));
    }
  }
}

void check_grid() {
  std::vector<double> left(13, NAN);
  double sum = 0;
  launch_group("test", target(), grid_sum_kernel, Launch{13, 96, 0, 1, true}, left.data(), &sum);
  CHECK(sum == 91.0);
  launch_group("test", target(), grid_sum_kernel, Launch{0, 96, 0, 1, true}, left.data(), &sum);
  CHECK(sum == 91.0);
}

void check_spinning() {
  std::vector<double> out(32, 0.0);
  launch_group("test", target(), spin_kernel, Launch{2, 64, sizeof(Flag), 2}, true, out.data());
  for (const double value : out) CHECK(value == 7.0);
}

template <typename... Params, typename... Args>
void check_dies(void (*kernel)(Params...), const Args&... args) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    launch_group("test", target(), kernel, Launch{2, 32, sizeof(Mail), 2}, args...);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

}  // namespace

int main() {
  check_clusters();
  check_grid();
  check_spinning();
  std::vector<double> out(64);
  check_dies(half_a_cluster_kernel);
  check_dies(late_reader_kernel, out.data());
  check_dies(spin_kernel, false, out.data());
  return 0;
}
