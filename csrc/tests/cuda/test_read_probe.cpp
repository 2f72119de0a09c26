// read_probe reads every 16-byte vector of a tensor and nothing outside it.
#include "ops.h"
#include "tests/cuda/columns.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

int main() {
  for (const int64_t count : {0, 3, 4, 2048 * 4, 100003}) {
    std::vector<float> data(static_cast<size_t>(count), 1.0f), out(4, 0.0f);
    ops::read_probe(on_cuda(view_of(data)), on_cuda(view_of(out)));
    for (const float value : out) CHECK(value == 0.0f);
  }
  // One value of a kind that only a thread which read it can store.
  for (const int64_t place : {8191, 99999}) {
    std::vector<float> data(static_cast<size_t>(place) + 1, 0.0f), out(1, 0.0f);
    data[static_cast<size_t>(place)] = -1.25e-38f;
    ops::read_probe(on_cuda(view_of(data)), on_cuda(view_of(out)));
    CHECK(out[0] == -1.25e-38f);
  }
  std::vector<float> data(4), out(1);
  CHECK_REFUSED(ops::read_probe(view_of(data), view_of(out)), "'tensor' must be on a CUDA device");
  return 0;
}
