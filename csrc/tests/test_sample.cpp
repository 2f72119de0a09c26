// The generator against its published vectors, the ends of the unit interval, truncation, and row
// ends under the sanitizers.
#include <limits>

#include "check.h"
#include "cpu/sample.h"
#include "isa.h"
#include "math/sample.h"
#include "ops.h"

using rlhf::DType;
using rlhf::TensorView;
using rlhf::cpu::RowSample;
using rlhf::test::view_of;

namespace {

constexpr double kAlmostOne = 1.0 - 0x1p-53;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// kat_vectors of Random123, philox4x32 with 10 rounds.
void check_published_vectors() {
  const struct {
    uint32_t counter[4], key[2], expected[4];
  } vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& vector : vectors) {
    const rlhf::math::Words4 out = rlhf::math::philox4x32_10(
        {{vector.counter[0], vector.counter[1], vector.counter[2], vector.counter[3]}},
        vector.key[0], vector.key[1]);
    for (int word = 0; word < 4; ++word) CHECK(out.w[word] == vector.expected[word]);
  }
  // The words are placed as documented: counter (row lo, row hi, position lo, position hi).
  const double u = rlhf::math::uniform_at(
      0x299f31d0a4093822, static_cast<int64_t>(0x85a308d3243f6a88), 0x0370734413198a2e);
  CHECK(u == static_cast<double>(0xd16cfe0994fdcceb >> 11) * 0x1p-53);
}

void check_order_keys() {
  const float values[] = {kMinusInfinity, -3e38f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f};
  for (int i = 1; i < 8; ++i) {
    CHECK(rlhf::math::order_key(values[i - 1]) < rlhf::math::order_key(values[i]));
    CHECK(rlhf::math::order_key(static_cast<double>(values[i - 1])) <
          rlhf::math::order_key(static_cast<double>(values[i])));
  }
  for (float value : values) {
    CHECK(rlhf::math::from_order_key(rlhf::math::order_key(value)) == value);
    CHECK(rlhf::math::from_order_key(rlhf::math::order_key(static_cast<double>(value))) == value);
  }
  CHECK(rlhf::math::order_key(-0.0f) == rlhf::math::order_key(0.0f));
  CHECK(rlhf::math::nucleus_need(1e-300, 100) == 1);
  CHECK(rlhf::math::nucleus_need(0.5, 100) == 50);
  CHECK(rlhf::math::nucleus_need(1.0, 100) == 100);
}

RowSample draw(const std::vector<float>& row, double u, int64_t top_k = 0, double top_p = 1.0) {
  return rlhf::cpu::sample_row(DType::kFloat32,
                               {row.data(), nullptr, static_cast<int64_t>(row.size()), 1.0}, top_k,
                               top_p, u);
}

// Entries of probability 0 stand at both ends and between: none is ever drawn.
void check_ends(int64_t vocab) {
  std::vector<float> row(static_cast<size_t>(vocab), kMinusInfinity);
  const int64_t first = vocab / 3, last = vocab - 1 - vocab / 4;
  row[first] = 1.0f;
  row[last] = -2.0f;
  for (int64_t top_k : {0, 2}) {
    CHECK(draw(row, 0.0, top_k).token == first);
    CHECK(draw(row, kAlmostOne, top_k).token == last);
    CHECK(draw(row, kAlmostOne, top_k, 0.99).token == last);
  }
  CHECK(draw(row, kAlmostOne, 1).token == first);
  CHECK_NEAR(draw(row, 0.5, 1).truncated_logprob, 0.0, 0.0);
  row[last] = -150.0f;  // too small to add to the sum, or to have an fp32 exponential
  CHECK(draw(row, kAlmostOne).token == first);
  CHECK(draw(row, 0.0).token == first);
}

void check_uniform_row(int64_t vocab) {
  const std::vector<float> row(static_cast<size_t>(vocab), 3.0f);
  for (int64_t token = 0; token < vocab; ++token) {
    const RowSample got =
        draw(row, (static_cast<double>(token) + 0.5) / static_cast<double>(vocab));
    CHECK(got.token == token);
    CHECK(got.logprob == got.truncated_logprob);
  }
  CHECK(draw(row, 0.0).token == 0);
  CHECK(draw(row, kAlmostOne).token == vocab - 1);
  CHECK(draw(row, kAlmostOne, 1, 0.01).token == vocab - 1);  // all are tied
}

void check_rows_without_distribution() {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity()};
  for (float value : bad) {
    for (size_t place : {0, 2500, 4999}) {
      std::vector<float> row(5000, 0.0f);
      row[place] = value;
      CHECK(draw(row, 0.3).token == -1);
      CHECK(draw(row, 0.3, 5, 0.5).token == -1);
      CHECK(std::isnan(draw(row, 0.3).logprob));
    }
  }
  CHECK(draw(std::vector<float>(5000, kMinusInfinity), 0.0).token == -1);
}

void check_refusals() {
  std::vector<float> logits(8), lp(2), truncated(2), entropy(2);
  std::vector<int64_t> ids(2), positions(2), tokens(2);
  std::vector<int32_t> narrow(2);
  const auto call = [&](const TensorView& rows, double temperature, int64_t k, double p) {
    rlhf::ops::sample(view_of(logits.data(), {2, 4}), rows, view_of(positions), {}, temperature, 1,
                      k, p, view_of(tokens), view_of(lp), view_of(truncated), view_of(entropy));
  };
  call(view_of(ids), 1.0, 0, 1.0);
  CHECK_REFUSED(call(view_of(narrow), 1.0, 0, 1.0), "'row_ids' must be int64");
  CHECK_REFUSED(call(view_of(ids), 0.0, 0, 1.0), "'temperature'");
  CHECK_REFUSED(call(view_of(ids), 1.0, -1, 1.0), "'top_k'");
  CHECK_REFUSED(call(view_of(ids), 1.0, 0, 0.0), "'top_p'");
  CHECK_REFUSED(call(view_of(ids), 1.0, 0, std::nan("")), "'top_p'");
}

}  // namespace

int main() {
  check_published_vectors();
  check_order_keys();
  check_refusals();
  rlhf::test::on_every_isa([] {
    for (int64_t vocab : {7, 15, 16, 17, 63, 65, 2047, 2048, 2049, 5000, 10001}) check_ends(vocab);
    for (int64_t vocab : {1, 2, 3, 16, 33, 2049}) check_uniform_row(vocab);
    check_rows_without_distribution();
  });
  return 0;
}
