// sample on emulated CUDA against the CPU column: the same tokens, unless the draw stands within
// 1e-5 of a step of the distribution function, and the same values.
#include <limits>

#include "cpu/sample.h"
#include "math/sample.h"
#include "ops.h"
#include "tests/cuda/columns.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

struct Results {
  explicit Results(size_t n) : tokens(n), logprobs(n), truncated(n), entropy(n) {}
  std::vector<int64_t> tokens;
  std::vector<float> logprobs, truncated, entropy;
};

struct Options {
  int64_t top_k;
  double top_p;
  double temperature;
};

constexpr int64_t kSeed = -7;
constexpr Options kOptions[] = {{0, 1.0, 1.0},  {0, 1.0, 0.6},  {5, 1.0, 1.0}, {0, 0.7, 1.3},
                                {20, 0.9, 1.0}, {0, 1e-9, 1.0}, {1, 0.99, 1.0}};

template <typename Device>
Results run(TensorView logits, const Options& options, const Device& device) {
  const int64_t n = logits.shape[0];
  Results out(static_cast<size_t>(n));
  std::vector<int64_t> rows(static_cast<size_t>(n)), positions(static_cast<size_t>(n), 5);
  for (int64_t i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = i;
  ops::sample(device(logits), device(view_of(rows)), device(view_of(positions)), {},
              options.temperature, kSeed, options.top_k, options.top_p, device(view_of(out.tokens)),
              device(view_of(out.logprobs)), device(view_of(out.truncated)),
              device(view_of(out.entropy)));
  return out;
}

// Whether a draw a little lower or higher gives this token.
bool near_boundary(TensorView logits, int64_t row, const Options& options, int64_t token) {
  const auto* start = logits.as<char>();
  const int64_t size = logits.dtype == DType::kFloat32 ? 4 : 2;
  const cpu::RowArgs args = {start + row * logits.strides[0] * size, nullptr, logits.shape[1],
                             1.0 / options.temperature};
  const double u = math::uniform_at(kSeed, row, 5);
  for (const double moved : {u - 1e-5, u + 1e-5}) {
    const double inside = moved < 0 ? 0 : moved < 1 ? moved : 1.0 - 0x1p-53;
    if (cpu::sample_row(logits.dtype, args, options.top_k, options.top_p, inside).token == token) {
      return true;
    }
  }
  return false;
}

template <typename S>
void check_rows(int64_t vocab, const Options& options, size_t phase) {
  const int64_t n = 4;
  test::Placed<S> logits(static_cast<size_t>(n * vocab), phase);
  test::fill_normal(logits.data(), logits.size(), 3.0, static_cast<uint32_t>(vocab));
  cpu::store(logits.data() + vocab - 1, -std::numeric_limits<float>::infinity());
  const TensorView x = view_of(logits.data(), {n, vocab});
  const Results here = run(x, options, [](TensorView view) { return view; });
  const Results there = run(x, options, on_cuda);
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    if (here.tokens[i] != there.tokens[i]) {
      CHECK(near_boundary(x, static_cast<int64_t>(i), options, there.tokens[i]));
      continue;
    }
    if (here.tokens[i] < 0) {
      CHECK(std::isnan(there.logprobs[i]) && std::isnan(there.truncated[i]));
      continue;
    }
    CHECK_NEAR(there.logprobs[i], here.logprobs[i], 4e-6);
    CHECK_NEAR(there.truncated[i], here.truncated[i], 4e-6);
    CHECK_NEAR(there.entropy[i], here.entropy[i], 4e-6);
    if (options.top_k == 0 && options.top_p == 1.0) CHECK(there.truncated[i] == there.logprobs[i]);
  }
}

void check_hard_rows() {
  const float infinity = std::numeric_limits<float>::infinity();
  const int64_t n = 6, vocab = 700;
  test::Placed<float> logits(static_cast<size_t>(n * vocab), 0);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = -infinity;
  logits[698] = 1.0f;  // one entry that counts, near the end
  logits[vocab + 3] = std::numeric_limits<float>::quiet_NaN();  // row 1: NaN among -inf
  logits[3 * vocab + 5] = infinity;                             // row 3; row 2 has no entry at all
  for (int64_t i = 0; i < vocab; ++i) logits[static_cast<size_t>(4 * vocab + i)] = 2.0f;
  for (int64_t i = 0; i < vocab / 2; ++i)
    logits[static_cast<size_t>(i)] = -119.0f;  // masses 2^-173
  logits[5 * vocab] = logits[6 * vocab - 1] = 0.5f;
  for (const Options& options : kOptions) {
    const Results there = run(view_of(logits.data(), {n, vocab}), options, on_cuda);
    CHECK(there.tokens[0] == 698 && there.truncated[0] == 0.0f);
    for (size_t row : {1, 2, 3}) CHECK(there.tokens[row] == -1 && std::isnan(there.entropy[row]));
    CHECK(there.truncated[4] == there.logprobs[4]);  // all are tied, so all are kept
    CHECK(there.tokens[5] == 0 || there.tokens[5] == vocab - 1);
    CHECK_NEAR(there.truncated[5], std::log(0.5), 1e-6);
  }
}

void check_bad_temperatures_give_nan() {
  std::vector<float> logits(3 * 40, 1.0f), temperatures = {1.0f, 0.0f, NAN};
  std::vector<int64_t> rows(3), positions(3);
  Results out(3);
  ops::sample(on_cuda(view_of(logits.data(), {3, 40})), on_cuda(view_of(rows)),
              on_cuda(view_of(positions)), on_cuda(view_of(temperatures)), 1.0, kSeed, 0, 1.0,
              on_cuda(view_of(out.tokens)), on_cuda(view_of(out.logprobs)),
              on_cuda(view_of(out.truncated)), on_cuda(view_of(out.entropy)));
  CHECK(out.tokens[0] >= 0 && out.tokens[1] == -1 && out.tokens[2] == -1);
  CHECK_NEAR(out.logprobs[0], -std::log(40.0), 1e-6);
  CHECK(std::isnan(out.logprobs[1]) && std::isnan(out.truncated[2]));
}

}  // namespace

int main() {
  for (const Options& options : kOptions) {
    for (const int64_t vocab : {1, 2, 31, 257, 2049}) {
      check_rows<float>(vocab, options, 1);
      check_rows<BFloat16>(vocab, options, 3);
      check_rows<Half>(vocab, options, 0);
    }
  }
  // Shares of more vectors than there are chunks of 32; a row takes a second, so in one order.
  const char* order = std::getenv("RLHF_EMULATION_ORDER");
  if (order == nullptr || std::string(order) == "forward") {
    check_rows<float>(140003, kOptions[0], 2);
  }
  check_hard_rows();
  check_bad_temperatures_give_nan();
  return 0;
}
