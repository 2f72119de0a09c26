#include <utility>

#include "check.h"
#include "isa.h"
#include "math/feed_forward.h"
#include "ops.h"
#include "sublayer.h"

using namespace rlhf::test;

namespace {

constexpr double kEps = 1e-3;

// Inputs, and memory for results and gradients; matrices along their columns where `turned`.
template <typename T>
struct Layer {
  int64_t rows, width, inner;
  bool turned, lowered = false;
  std::vector<int64_t> chosen;  // empty: all rows
  std::vector<T> hidden, norm_weight, norm_bias, up, up_bias, down, down_bias, upstream;
  std::vector<T> laid_up, laid_down;
  Written<T> out, kept, grad_hidden, grad_norm_weight, grad_norm_bias;
  Written<T> grad_up, grad_up_bias, grad_down, grad_down_bias;

  Layer(int64_t rows, int64_t width, int64_t inner, bool turned = false,
        std::vector<int64_t> chosen = {})
      : rows(rows),
        width(width),
        inner(inner),
        turned(turned),
        chosen(chosen),
        hidden(make<T>(rows * width, 1, 2, 0.5)),
        norm_weight(make<T>(width, 2, 0.5, 1)),
        norm_bias(make<T>(width, 3, 0.5)),
        up(make<T>(width * inner, 4, 2 / std::sqrt(width))),
        up_bias(make<T>(inner, 5)),
        down(make<T>(inner * width, 6, 2 / std::sqrt(inner))),
        down_bias(make<T>(width, 7)),
        upstream(make<T>(rows * width, 8)),
        out(rows * width),
        kept((inner + 63) / 64 * 64 * count()),
        grad_hidden(rows * width),
        grad_norm_weight(width),
        grad_norm_bias(width),
        grad_up(width * inner),
        grad_up_bias(inner),
        grad_down(inner * width),
        grad_down_bias(width) {}

  int64_t count() const { return chosen.empty() ? rows : static_cast<int64_t>(chosen.size()); }
  bool is_chosen(int64_t row) const {
    return chosen.empty() || std::find(chosen.begin(), chosen.end(), row) != chosen.end();
  }
  rlhf::TensorView kept_view() { return view_of(kept.data(), {(inner + 63) / 64, count(), 64}); }
  rlhf::TensorView row_view(T* data) { return view_of(data, {rows, width}); }

  rlhf::FeedForwardInputs inputs() {
    laid_up = turned ? turn_matrix(up, width, inner) : up;
    laid_down = turned ? turn_matrix(down, inner, width) : down;
    rlhf::FeedForwardInputs inputs = {row_view(hidden.data()),
                                      std::nullopt,
                                      view_of(norm_weight),
                                      view_of(norm_bias),
                                      matrix_view(laid_up.data(), width, inner, turned),
                                      view_of(up_bias),
                                      matrix_view(laid_down.data(), inner, width, turned),
                                      view_of(down_bias),
                                      kEps,
                                      lowered};
    if (!chosen.empty()) inputs.rows = view_of(chosen);
    return inputs;
  }
  // Rows that do not go through are the caller's to copy, as Python does.
  void forward() {
    std::copy(hidden.begin(), hidden.end(), out.data());
    rlhf::ops::feed_forward(inputs(), row_view(out.data()), kept_view());
  }
  void backward() {
    std::copy(upstream.begin(), upstream.end(), grad_hidden.data());
    rlhf::ops::feed_forward_backward(
        row_view(upstream.data()), inputs(), kept_view(),
        {row_view(grad_hidden.data()), view_of(grad_norm_weight.data(), {width}),
         view_of(grad_norm_bias.data(), {width}), matrix_view(grad_up.data(), width, inner, turned),
         view_of(grad_up_bias.data(), {inner}), matrix_view(grad_down.data(), inner, width, turned),
         view_of(grad_down_bias.data(), {width})});
  }
  void both() {
    forward();
    backward();
  }
  std::vector<T> up_gradient() const {
    return turned ? turn_matrix(grad_up.read(), inner, width) : grad_up.read();
  }
  std::vector<T> down_gradient() const {
    return turned ? turn_matrix(grad_down.read(), width, inner) : grad_down.read();
  }
  std::vector<std::vector<T>> results() const {
    return {out.read(),    grad_hidden.read(),  grad_norm_weight.read(), grad_norm_bias.read(),
            up_gradient(), grad_up_bias.read(), down_gradient(),         grad_down_bias.read()};
  }

  // The result by the formula, in float64.
  std::vector<double> truth() const {
    const std::vector<double> x = widen(hidden), weight = widen(norm_weight);
    const std::vector<double> bias = widen(norm_bias), u = widen(up), ub = widen(up_bias);
    const std::vector<double> d = widen(down), db = widen(down_bias);
    const rlhf::math::FeedForwardWeights weights = {
        weight.data(), bias.data(), u.data(), ub.data(), d.data(), db.data(), width, inner, kEps};
    std::vector<double> normalized(width), active(inner), found = x;
    for (int64_t i = 0; i < rows; ++i) {
      if (!is_chosen(i)) continue;
      rlhf::math::feed_forward(x.data() + i * width, weights, normalized.data(), active.data(),
                               found.data() + i * width);
    }
    return found;
  }
  // The sum of all results times their upstream gradients.
  double total() const {
    const std::vector<double> found = truth();
    double sum = 0;
    for (size_t i = 0; i < found.size(); ++i) sum += upstream[i] * found[i];
    return sum;
  }
};

// Around a tile of 6 rows and a piece of 48; panels of 64 columns that are whole and that are not.
void check_results() {
  for (int64_t rows : {1, 2, 5, 6, 7, 12, 47, 48, 49, 97, 530}) {
    for (bool turned : {false, true}) {
      Layer<float> narrow(rows, 48, 80, turned);
      narrow.forward();
      check_near(narrow.out.read(), narrow.truth(), 1e-5);
      Layer<double> wide(rows, 64, 16, turned);
      wide.forward();
      check_near(wide.out.read(), wide.truth(), 1e-13);
    }
  }
  for (int64_t width : {16, 64, 192}) {
    Layer<float> layer(9, width, 128);
    layer.forward();
    check_near(layer.out.read(), layer.truth(), 1e-5);
  }
}

void check_gradients(int64_t rows, int64_t width, int64_t inner, size_t step,
                     const std::vector<int64_t>& chosen = {}) {
  Layer<double> a(rows, width, inner, false, chosen);
  a.both();
  const auto total = [&] { return a.total(); };
  check_differences(a.hidden, a.grad_hidden.read(), step, total);
  check_differences(a.norm_weight, a.grad_norm_weight.read(), step, total);
  check_differences(a.norm_bias, a.grad_norm_bias.read(), step, total);
  check_differences(a.up, a.up_gradient(), step, total);
  check_differences(a.up_bias, a.grad_up_bias.read(), step, total);
  check_differences(a.down, a.down_gradient(), step, total);
  check_differences(a.down_bias, a.grad_down_bias.read(), step, total);
}

// fp32 gradients are those of fp64, relative to the largest, over tiles, pieces and stretches.
void check_narrow_gradients(int64_t rows, int64_t width, int64_t inner) {
  Layer<float> a(rows, width, inner);
  Layer<double> wide(rows, width, inner);
  a.both();
  wide.both();
  check_relative(a.results(), wide.results(), 5e-6);
}

// Weights that lie turned, and one thread or three, give the same bits.
template <typename T>
void check_same_bits(int64_t rows, int64_t width, int64_t inner) {
  Layer<T> a(rows, width, inner), b(rows, width, inner, true), c(rows, width, inner);
  on_threads(1, [&] { a.both(); });
  on_threads(3, [&] { b.both(); });
  on_threads(3, [&] { c.both(); });
  CHECK(a.results() == c.results());
  CHECK(a.results() == b.results());
}

// Rows that are not named keep what they hold; the others get what they get among all.
void check_chosen() {
  const std::vector<int64_t> chosen = {17, 3, 59, 0, 28, 29, 30, 1};
  Layer<float> all(60, 48, 80), some(60, 48, 80, false, chosen);
  all.both();
  some.both();
  const auto out = some.out.read(), grad = some.grad_hidden.read();
  for (int64_t row = 0; row < 60; ++row) {
    const bool through = some.is_chosen(row);
    for (int64_t i = row * 48; i < (row + 1) * 48; ++i) {
      CHECK(out[i] == (through ? all.out.read()[i] : some.hidden[i]));
      CHECK(grad[i] == (through ? all.grad_hidden.read()[i] : some.upstream[i]));
    }
  }
}

// Memory that a call leaves is not read by the next one.
void check_left_memory() {
  Layer<float> before(20, 48, 80), after(20, 48, 80), spoilt(200, 64, 128);
  before.both();
  for (std::vector<float>* x : {&spoilt.hidden, &spoilt.up, &spoilt.down, &spoilt.upstream}) {
    std::fill(x->begin(), x->end(), NAN);
  }
  spoilt.both();
  after.both();
  CHECK(before.results() == after.results());
}

void check_spoilt_row() {
  Layer<float> clean(60, 48, 80), dirty(60, 48, 80);
  std::fill_n(dirty.hidden.begin() + 8 * 48, 48, NAN);
  clean.both();
  dirty.both();
  const auto out = dirty.out.read(), grad = dirty.grad_hidden.read();
  const auto right = clean.out.read(), right_grad = clean.grad_hidden.read();
  for (int64_t i = 0; i < 60 * 48; ++i) {
    const bool spoilt = i / 48 == 8;
    CHECK(spoilt ? std::isnan(out[i]) : out[i] == right[i]);
    CHECK(spoilt ? std::isnan(grad[i]) : grad[i] == right_grad[i]);
  }
}

// Each argument wrong in every way.
void check_refusals() {
  using Inputs = rlhf::FeedForwardInputs;
  Layer<float> a(4, 32, 48);
  std::vector<int64_t> rows = {0, 1, 3, 1, 4, -1};
  const auto refuse = [&](const auto& change, const char* text) {
    Inputs inputs = a.inputs();
    change(inputs);
    CHECK_REFUSED(rlhf::ops::feed_forward(inputs, a.row_view(a.out.data()), a.kept_view()), text);
  };
  const std::pair<rlhf::TensorView Inputs::*, const char*> fields[] = {
      {&Inputs::norm_weight, "'norm_weight'"}, {&Inputs::norm_bias, "'norm_bias'"},
      {&Inputs::up_weight, "'up_weight'"},     {&Inputs::up_bias, "'up_bias'"},
      {&Inputs::down_weight, "'down_weight'"}, {&Inputs::down_bias, "'down_bias'"}};
  for (const auto& [field, name] : fields) {
    for (const rlhf::TensorView& wrong : spoil_view(a.inputs().*field)) {
      refuse([&, field = field](Inputs& inputs) { inputs.*field = wrong; }, name);
    }
  }
  const auto refuse_hidden = [&](const rlhf::TensorView& hidden, const char* text) {
    refuse([&](Inputs& inputs) { inputs.hidden = hidden; }, text);
  };
  float* data = a.hidden.data();
  refuse_hidden(view_of(reinterpret_cast<int32_t*>(data), {4, 32}), "'hidden' must be float32 or");
  refuse_hidden(view_of(data, {1, 4, 32}), "'hidden' must have 2 dimensions");
  refuse_hidden(view_of(data, {4, 24}), "'hidden' must have a multiple of 16 columns");
  refuse_hidden(view_of(data, {4, 0}), "'hidden' must have a multiple of 16 columns");
  refuse_hidden(matrix_view(data, 4, 32, true), "'hidden' must be contiguous");
  refuse([&](Inputs& x) { x.up_weight = view_of(a.up.data(), {32, 24}); }, "multiple of 16");
  for (double eps : {-1e-9, 1.5, static_cast<double>(NAN), HUGE_VAL}) {
    refuse([&](Inputs& inputs) { inputs.eps = eps; }, "'eps' must be in [0, 1]");
  }
  const auto refuse_rows = [&](const rlhf::TensorView& view, const char* text) {
    refuse([&](Inputs& inputs) { inputs.rows = view; }, text);
  };
  for (int64_t first : {1, 4, 5}) {  // twice, past the end, before the start
    refuse_rows(view_of(rows.data() + first, {first == 1 ? 3 : 1}), "'rows' must name rows of");
  }
  refuse_rows(view_of(reinterpret_cast<int32_t*>(rows.data()), {2}), "'rows' must be int64");
  refuse_rows(view_of(rows.data(), {1, 2}), "'rows' must be [N]");
  for (const rlhf::TensorView& wrong : spoil_view(a.row_view(a.upstream.data()))) {
    CHECK_REFUSED(rlhf::ops::feed_forward_backward(wrong, a.inputs(), a.kept_view(), {}),
                  "'grad_out'");
  }
}

// No rows go through: weights get gradients of 0.
void check_nothing() {
  Layer<float> a(0, 48, 80);
  a.both();
  for (const std::vector<float>& x : a.results()) {
    for (float each : x) CHECK(each == 0);
  }
}

}  // namespace

int main() {
  check_refusals();
  check_gradients(3, 16, 32, 1);
  check_gradients(50, 80, 112, 151);
  check_gradients(9, 16, 80, 7, {8, 2, 5});
  on_every_isa_of_pairs([] { check_lowered<Layer<float>, Layer<double>>(150, 80, 208); });
  on_every_isa([] {
    check_results();
    check_narrow_gradients(7, 80, 48);
    check_narrow_gradients(100, 192, 64);
    check_narrow_gradients(530, 48, 80);
    check_gradients(530, 16, 32, 149);  // a stretch of 512 rows, and of as many columns
    check_gradients(7, 16, 592, 149);
    check_same_bits<float>(150, 48, 208);
    check_same_bits<double>(150, 80, 64);
    check_chosen();
    check_left_memory();
    check_spoilt_row();
    check_nothing();
  });
  return 0;
}
