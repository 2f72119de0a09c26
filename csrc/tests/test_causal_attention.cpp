#include <limits>
#include <utility>

#include "check.h"
#include "cpu/rows.h"
#include "isa.h"
#include "math/causal_attention.h"
#include "numbers.h"
#include "ops.h"

using rlhf::test::make;
using rlhf::test::view_of;

namespace {

struct Sizes {
  int64_t batch, heads, groups, length, size, value_size;

  int64_t queries() const { return batch * heads * length * size; }
  int64_t keys() const { return batch * groups * length * size; }
  int64_t values() const { return batch * groups * length * value_size; }
  int64_t results() const { return batch * length * heads * value_size; }
};

constexpr int kGuards = 3;

// Inputs, results and gradients, dense, with numbers of the caller's after each of the latter.
template <typename T>
struct Attended {
  Sizes sizes;
  std::vector<T> query, key, value, upstream, out, grad_query, grad_key, grad_value;

  explicit Attended(const Sizes& sizes)
      : sizes(sizes),
        query(make<T>(sizes.queries(), 1)),
        key(make<T>(sizes.keys(), 2)),
        value(make<T>(sizes.values(), 3)),
        upstream(make<T>(sizes.results(), 4)),
        out(sizes.results() + kGuards, T(-7)),
        grad_query(sizes.queries() + kGuards, T(-7)),
        grad_key(sizes.keys() + kGuards, T(-7)),
        grad_value(sizes.values() + kGuards, T(-7)) {}

  rlhf::TensorView view(std::vector<T>& data, int64_t heads, int64_t size) {
    return view_of(data.data(), {sizes.batch, heads, sizes.length, size});
  }
  rlhf::TensorView result_view(std::vector<T>& data) {
    return view_of(data.data(), {sizes.batch, sizes.length, sizes.heads, sizes.value_size});
  }
  rlhf::TensorView query_view() { return view(query, sizes.heads, sizes.size); }
  rlhf::TensorView key_view() { return view(key, sizes.groups, sizes.size); }
  rlhf::TensorView value_view() { return view(value, sizes.groups, sizes.value_size); }

  void forward(double scale) {
    rlhf::ops::causal_attention(query_view(), key_view(), value_view(), scale, result_view(out));
  }
  void backward(double scale) {
    rlhf::ops::causal_attention_backward(
        result_view(upstream), query_view(), key_view(), value_view(), scale,
        view(grad_query, sizes.heads, sizes.size), view(grad_key, sizes.groups, sizes.size),
        view(grad_value, sizes.groups, sizes.value_size));
  }
  void check_guards() const {
    for (const std::vector<T>* written : {&out, &grad_query, &grad_key, &grad_value}) {
      for (int i = 1; i <= kGuards; ++i) CHECK((*written)[written->size() - i] == T(-7));
    }
  }

  // A result by the formula, in float64.
  double result(int64_t b, int64_t i, int64_t head, int64_t column, double scale) const {
    const int64_t group = b * sizes.groups + head / (sizes.heads / sizes.groups);
    const auto wide = [](const std::vector<T>& data, int64_t begin, int64_t count) {
      return std::vector<double>(data.begin() + begin, data.begin() + begin + count);
    };
    const int64_t row = (b * sizes.heads + head) * sizes.length + i;
    const auto q = wide(query, row * sizes.size, sizes.size);
    const auto k = wide(key, group * sizes.length * sizes.size, (i + 1) * sizes.size);
    const auto v = wide(value, group * sizes.length * sizes.value_size, (i + 1) * sizes.value_size);
    std::vector<double> shares(i + 1);
    rlhf::math::attention_shares(q.data(), k.data(), sizes.size, i + 1, scale, shares.data());
    return rlhf::math::attention_result(shares.data(), v.data(), sizes.value_size, i + 1, column);
  }
  // The sum of all results times their upstream gradients.
  double total(double scale) const {
    double sum = 0;
    int64_t at = 0;
    for (int64_t b = 0; b < sizes.batch; ++b) {
      for (int64_t i = 0; i < sizes.length; ++i) {
        for (int64_t head = 0; head < sizes.heads; ++head) {
          for (int64_t e = 0; e < sizes.value_size; ++e) {
            sum += upstream[at++] * result(b, i, head, e, scale);
          }
        }
      }
    }
    return sum;
  }
};

template <typename T>
void check_results(const Sizes& sizes, double tolerance) {
  Attended<T> a(sizes);
  a.forward(0.7);
  a.backward(0.7);
  a.check_guards();
  int64_t at = 0;
  for (int64_t b = 0; b < sizes.batch; ++b) {
    for (int64_t i = 0; i < sizes.length; ++i) {
      for (int64_t head = 0; head < sizes.heads; ++head) {
        for (int64_t e = 0; e < sizes.value_size; ++e) {
          CHECK_NEAR(a.out[at++], a.result(b, i, head, e, 0.7), tolerance);
        }
      }
    }
  }
}

// Around a tile, a vector and a panel; features of less than a vector, of a rest, of whole ones.
void check_lengths() {
  for (int64_t length : {1, 2, 5, 6, 7, 11, 16, 17, 47, 48, 49, 97}) {
    check_results<float>({1, 2, 2, length, 5, 3}, 2e-6);
    check_results<float>({2, 4, 2, length, 16, 33}, 2e-6);
    check_results<double>({1, 3, 1, length, 1, 17}, 1e-14);
  }
  check_results<float>({1, 1, 1, 20, 64, 64}, 2e-6);
  check_results<float>({1, 1, 1, 20, 4, 0}, 2e-6);
  check_results<float>({0, 1, 1, 20, 4, 4}, 2e-6);
}

// Against differences of the formula.
void check_gradients(int64_t length) {
  Attended<double> a({1, 2, 1, length, 3, 2});
  a.backward(0.7);
  const auto check = [&](std::vector<double>& input, const std::vector<double>& grads) {
    for (size_t i = 0; i < input.size(); ++i) {
      const double before = input[i], h = 1e-5;
      input[i] = before + h;
      const double above = a.total(0.7);
      input[i] = before - h;
      const double below = a.total(0.7);
      input[i] = before;
      CHECK_NEAR(grads[i], (above - below) / (2 * h), 1e-8);
    }
  };
  check(a.query, a.grad_query);
  check(a.key, a.grad_key);
  check(a.value, a.grad_value);
}

// fp32 gradients are those of fp64, over tiles, panels and heads that share keys.
void check_narrow_gradients(int64_t length) {
  const Sizes sizes = {1, 3, 1, length, 24, 40};
  Attended<float> a(sizes);
  Attended<double> wide(sizes);
  a.backward(0.3);
  wide.backward(0.3);
  const auto check = [](const std::vector<float>& got, const std::vector<double>& want) {
    for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], want[i], 2e-5);
  };
  check(a.grad_query, wide.grad_query);
  check(a.grad_key, wide.grad_key);
  check(a.grad_value, wide.grad_value);
}

// A scratch of NaN, as large as asked for: nothing of it is read before it is written, nothing
// behind it is written, and results are those of a scratch of zeros.
void check_scratch(int64_t length, int64_t size, int64_t value_size) {
  Attended<float> a({1, 2, 1, length, size, value_size}), b(a.sizes);
  a.forward(0.7);
  a.backward(0.7);
  rlhf::cpu::AttentionArgs args = {};
  args.query = b.query.data();
  args.key = b.key.data();
  args.value = b.value.data();
  args.grad_out = b.upstream.data();
  args.out = b.out.data();
  args.grad_query = b.grad_query.data();
  args.grad_key = b.grad_key.data();
  args.grad_value = b.grad_value.data();
  args.query_row = args.key_row = args.grad_query_row = args.grad_key_row = size;
  args.value_row = args.grad_value_row = args.out_head = value_size;
  args.query_head = args.grad_query_head = length * size;
  args.out_row = 2 * value_size;
  args.heads = 2;
  args.length = length;
  args.size = size;
  args.value_size = value_size;
  args.scale = 0.7;
  const rlhf::cpu::RowFunctions& functions = rlhf::cpu::row_functions_for(rlhf::DType::kFloat32);
  const int64_t count = functions.attention_scratch(args);
  std::vector<float> room(count + 16 + kGuards);
  const auto address = reinterpret_cast<uintptr_t>(room.data());
  float* scratch = room.data() + ((64 - address % 64) % 64) / sizeof(float);
  args.scratch = scratch;
  for (const auto& pass : {functions.attention, functions.attention_gradient}) {
    for (float& x : room) x = std::numeric_limits<float>::quiet_NaN();
    for (int i = 0; i < kGuards; ++i) scratch[count + i] = -7;
    pass(args);
    for (int i = 0; i < kGuards; ++i) CHECK(scratch[count + i] == -7);
  }
  CHECK(a.out == b.out && a.grad_query == b.grad_query);
  CHECK(a.grad_key == b.grad_key && a.grad_value == b.grad_value);
}

// What a later position holds reaches no earlier one, inside a tile neither.
void check_later_positions() {
  const Sizes sizes = {1, 2, 1, 23, 5, 20};
  Attended<float> a(sizes), b(sizes);
  const int64_t first = 9;  // in the middle of a tile
  for (int64_t i = first * sizes.size; i < sizes.keys(); ++i) b.key[i] = NAN;
  for (int64_t i = first * sizes.value_size; i < sizes.values(); ++i) b.value[i] = HUGE_VALF;
  for (Attended<float>* x : {&a, &b}) {
    x->forward(0.7);
    x->backward(0.7);
  }
  for (int64_t i = 0; i < first * sizes.heads * sizes.value_size; ++i) CHECK(a.out[i] == b.out[i]);
  for (int64_t i = 0; i < first * sizes.size; ++i) CHECK(a.grad_query[i] == b.grad_query[i]);
  CHECK(std::isnan(b.out[first * sizes.heads * sizes.value_size]));
}

void check_refusals() {
  Attended<float> a({1, 4, 2, 3, 5, 2});
  std::vector<double> wide(30);
  std::vector<int32_t> whole(60);
  rlhf::TensorView out = a.result_view(a.out), turned = a.key_view();
  std::swap(turned.strides[2], turned.strides[3]);
  const auto refuse = [&](const rlhf::TensorView& q, const rlhf::TensorView& k,
                          const rlhf::TensorView& v, double scale, const char* text) {
    CHECK_REFUSED(rlhf::ops::causal_attention(q, k, v, scale, out), text);
  };
  refuse(view_of(whole.data(), {1, 4, 3, 5}), a.key_view(), a.value_view(), 1, "'query'");
  refuse(view_of(a.query), a.key_view(), a.value_view(), 1, "[batch, heads, positions, features]");
  refuse(view_of(a.query.data(), {1, 4, 3, 0}), a.key_view(), a.value_view(), 1, "features");
  refuse(view_of(a.query.data(), {1, 0, 3, 5}), a.key_view(), a.value_view(), 1, "heads");
  refuse(a.query_view(), view_of(wide.data(), {1, 2, 3, 5}), a.value_view(), 1, "'key'");
  refuse(a.query_view(), view_of(a.key.data(), {1, 3, 2, 5}), a.value_view(), 1, "divides");
  refuse(a.query_view(), turned, a.value_view(), 1, "side by side");
  refuse(a.query_view(), a.key_view(), view_of(a.value.data(), {1, 2, 2, 3}), 1, "'value'");
  refuse(a.query_view(), a.key_view(), a.value_view(), NAN, "'scale'");
  CHECK_REFUSED(rlhf::ops::causal_attention_backward(a.query_view(), a.query_view(), a.key_view(),
                                                     a.value_view(), 1, a.query_view(),
                                                     a.key_view(), a.value_view()),
                "'grad_out'");
}

}  // namespace

int main() {
  check_refusals();
  check_gradients(7);
  check_gradients(14);
  rlhf::test::on_every_isa([] {
    check_lengths();
    for (int64_t length : {5, 49, 101}) check_narrow_gradients(length);
    for (int64_t length : {1, 6, 13, 16, 50, 97}) {
      check_scratch(length, 1, 40);
      check_scratch(length, 17, 16);
    }
    check_later_positions();
  });
  return 0;
}
