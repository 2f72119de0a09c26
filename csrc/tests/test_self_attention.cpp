#include <utility>

#include "check.h"
#include "isa.h"
#include "math/self_attention.h"
#include "ops.h"
#include "sublayer.h"

using namespace rlhf::test;

namespace {

constexpr double kEps = 1e-3, kScale = 0.7;

// Inputs, and memory for results and gradients; matrices along their columns where `turned`.
template <typename T>
struct Layer {
  int64_t batch, length, width, heads;
  bool turned, lowered = false;
  std::vector<T> hidden, norm_weight, norm_bias, in, in_bias, out, out_bias, upstream;
  std::vector<T> laid_in, laid_out;
  Written<T> result, states, attended, grad_hidden, grad_norm_weight, grad_norm_bias;
  Written<T> grad_in, grad_in_bias, grad_out, grad_out_bias;

  Layer(int64_t batch, int64_t length, int64_t width, int64_t heads, bool turned = false)
      : batch(batch),
        length(length),
        width(width),
        heads(heads),
        turned(turned),
        hidden(make<T>(rows() * width, 1, 2, 0.5)),
        norm_weight(make<T>(width, 2, 0.5, 1)),
        norm_bias(make<T>(width, 3, 0.5)),
        in(make<T>(width * 3 * width, 4, 2 / std::sqrt(width))),
        in_bias(make<T>(3 * width, 5)),
        out(make<T>(width * width, 6, 2 / std::sqrt(width))),
        out_bias(make<T>(width, 7)),
        upstream(make<T>(rows() * width, 8)),
        result(rows() * width),
        states(rows() * 3 * width),
        attended(rows() * width),
        grad_hidden(rows() * width),
        grad_norm_weight(width),
        grad_norm_bias(width),
        grad_in(width * 3 * width),
        grad_in_bias(3 * width),
        grad_out(width * width),
        grad_out_bias(width) {}

  int64_t rows() const { return batch * length; }
  rlhf::TensorView view(T* data, int64_t columns) {
    return view_of(data, {batch, length, columns});
  }
  rlhf::TensorView states_view() { return view(states.data(), 3 * width); }
  rlhf::TensorView attended_view() { return view(attended.data(), width); }

  rlhf::SelfAttentionInputs inputs() {
    laid_in = turned ? turn_matrix(in, width, 3 * width) : in;
    laid_out = turned ? turn_matrix(out, width, width) : out;
    return {view(hidden.data(), width),
            view_of(norm_weight),
            view_of(norm_bias),
            matrix_view(laid_in.data(), width, 3 * width, turned),
            view_of(in_bias),
            matrix_view(laid_out.data(), width, width, turned),
            view_of(out_bias),
            heads,
            kScale,
            kEps,
            lowered};
  }
  void both() {
    rlhf::ops::self_attention(inputs(), view(result.data(), width), states_view(), attended_view());
    rlhf::ops::self_attention_backward(
        view(upstream.data(), width), inputs(), states_view(), attended_view(),
        {view(grad_hidden.data(), width), view_of(grad_norm_weight.data(), {width}),
         view_of(grad_norm_bias.data(), {width}),
         matrix_view(grad_in.data(), width, 3 * width, turned),
         view_of(grad_in_bias.data(), {3 * width}),
         matrix_view(grad_out.data(), width, width, turned),
         view_of(grad_out_bias.data(), {width})});
  }
  std::vector<T> in_gradient() const {
    return turned ? turn_matrix(grad_in.read(), 3 * width, width) : grad_in.read();
  }
  std::vector<T> out_gradient() const {
    return turned ? turn_matrix(grad_out.read(), width, width) : grad_out.read();
  }
  std::vector<std::vector<T>> results() const {
    return {result.read(), grad_hidden.read(),  grad_norm_weight.read(), grad_norm_bias.read(),
            in_gradient(), grad_in_bias.read(), out_gradient(),          grad_out_bias.read()};
  }

  // Of one sequence: what the heads gave, from its rows of queries, keys and values.
  std::vector<double> attend(const double* rows, const rlhf::math::SelfAttentionWeights& w) const {
    const int64_t size = width / heads;
    std::vector<double> parts(3 * length * size), shares(length), found(length * width);
    for (int64_t head = 0; head < heads; ++head) {
      rlhf::math::head_states(rows, w, length, head, parts.data());
      for (int64_t i = 0; i < length; ++i) {
        rlhf::math::head_result(parts.data(), w, length, i, shares.data(),
                                found.data() + i * width + head * size);
      }
    }
    return found;
  }
  // The result by the formula, in float64.
  std::vector<double> truth() const {
    const std::vector<double> x = widen(hidden), weight = widen(norm_weight);
    const std::vector<double> bias = widen(norm_bias), wi = widen(in), wib = widen(in_bias);
    const std::vector<double> wo = widen(out), wob = widen(out_bias);
    const rlhf::math::SelfAttentionWeights w = {weight.data(), bias.data(), wi.data(), wib.data(),
                                                wo.data(),     wob.data(),  width,     heads,
                                                kScale,        kEps};
    std::vector<double> normalized(width), rows(length * 3 * width), found(x.size());
    for (int64_t first = 0; first < this->rows(); first += length) {
      for (int64_t i = 0; i < length; ++i) {
        rlhf::math::layer_norm(x.data() + (first + i) * width, w.norm_weight, w.norm_bias, width,
                               kEps, normalized.data());
        rlhf::math::affine(normalized.data(), w.in, w.in_bias, width, 3 * width,
                           rows.data() + i * 3 * width);
      }
      const std::vector<double> seen = attend(rows.data(), w);
      for (int64_t i = 0; i < length; ++i) {
        double* to = found.data() + (first + i) * width;
        rlhf::math::affine(seen.data() + i * width, w.out, w.out_bias, width, width, to);
        for (int64_t j = 0; j < width; ++j) to[j] += x[(first + i) * width + j];
      }
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

template <typename T>
void check_result(Layer<T> layer, double tolerance) {
  layer.both();
  check_near(layer.result.read(), layer.truth(), tolerance);
}

// Around a tile of 6 rows and a piece of 48; panels of 64 columns that are whole and that are not;
// heads of one feature, an odd number and all.
void check_results() {
  for (int64_t length : {1, 2, 5, 6, 7, 11, 17, 47, 48, 49, 97}) {
    for (bool turned : {false, true}) {
      check_result(Layer<float>(2, length, 48, 16, turned), 1e-5);
      check_result(Layer<double>(1, length, 32, 2, turned), 1e-13);
    }
  }
  for (int64_t batch : {3, 13, 60}) check_result(Layer<float>(batch, 4, 80, 5), 1e-5);
  check_result(Layer<float>(4, 7, 192, 6), 1e-5);
  check_result(Layer<float>(4, 7, 64, 1), 1e-5);
  check_result(Layer<double>(4, 7, 16, 16), 1e-13);
}

void check_gradients(int64_t batch, int64_t length, int64_t width, int64_t heads, size_t step) {
  Layer<double> a(batch, length, width, heads);
  a.both();
  const auto total = [&] { return a.total(); };
  check_differences(a.hidden, a.grad_hidden.read(), step, total);
  check_differences(a.norm_weight, a.grad_norm_weight.read(), step, total);
  check_differences(a.norm_bias, a.grad_norm_bias.read(), step, total);
  check_differences(a.in, a.in_gradient(), step, total);
  check_differences(a.in_bias, a.grad_in_bias.read(), step, total);
  check_differences(a.out, a.out_gradient(), step, total);
  check_differences(a.out_bias, a.grad_out_bias.read(), step, total);
}

// fp32 gradients are those of fp64, relative to the largest, over tiles, pieces and stretches.
void check_narrow_gradients(int64_t batch, int64_t length, int64_t width, int64_t heads) {
  Layer<float> a(batch, length, width, heads);
  Layer<double> wide(batch, length, width, heads);
  a.both();
  wide.both();
  check_relative(a.results(), wide.results(), 5e-6);
}

// Weights that lie turned, and one thread or three, give the same bits.
template <typename T>
void check_same_bits(int64_t batch, int64_t length, int64_t width) {
  Layer<T> a(batch, length, width, 4), b(batch, length, width, 4, true), c(a);
  on_threads(1, [&] { a.both(); });
  on_threads(3, [&] { b.both(); });
  on_threads(3, [&] { c.both(); });
  CHECK(a.results() == c.results());
  CHECK(a.results() == b.results());
}

// Memory that a call leaves is not read by the next one.
void check_left_memory() {
  Layer<float> before(2, 11, 48, 3), after(before), spoilt(40, 11, 64, 2);
  before.both();
  for (std::vector<float>* x : {&spoilt.hidden, &spoilt.in, &spoilt.out, &spoilt.upstream}) {
    std::fill(x->begin(), x->end(), NAN);
  }
  spoilt.both();
  after.both();
  CHECK(before.results() == after.results());
}

// Results of other sequences and of earlier positions, and gradients of other sequences, stay.
void check_spoilt_position() {
  Layer<float> clean(5, 11, 48, 3), dirty(clean);
  const int64_t first = (2 * 11 + 8) * 48, end = 3 * 11 * 48;
  std::fill_n(dirty.hidden.begin() + first, 48, NAN);
  clean.both();
  dirty.both();
  const auto out = dirty.result.read(), grad = dirty.grad_hidden.read();
  const auto right = clean.result.read(), right_grad = clean.grad_hidden.read();
  for (int64_t i = 0; i < 5 * 11 * 48; ++i) {
    const bool spoilt = i >= first && i < end;
    CHECK(spoilt ? std::isnan(out[i]) : out[i] == right[i]);
    if (i < 2 * 11 * 48 || i >= end) CHECK(grad[i] == right_grad[i]);
  }
}

// Each argument wrong in every way.
void check_refusals() {
  using Inputs = rlhf::SelfAttentionInputs;
  Layer<float> a(2, 3, 32, 4);
  const auto refuse = [&](const auto& change, const char* text) {
    Inputs inputs = a.inputs();
    change(inputs);
    CHECK_REFUSED(rlhf::ops::self_attention(inputs, a.view(a.result.data(), 32), a.states_view(),
                                            a.attended_view()),
                  text);
  };
  const std::pair<rlhf::TensorView Inputs::*, const char*> fields[] = {
      {&Inputs::norm_weight, "'norm_weight'"}, {&Inputs::norm_bias, "'norm_bias'"},
      {&Inputs::in_weight, "'in_weight'"},     {&Inputs::in_bias, "'in_bias'"},
      {&Inputs::out_weight, "'out_weight'"},   {&Inputs::out_bias, "'out_bias'"}};
  for (const auto& [field, name] : fields) {
    for (const rlhf::TensorView& wrong : spoil_view(a.inputs().*field)) {
      refuse([&, field = field](Inputs& inputs) { inputs.*field = wrong; }, name);
    }
  }
  const auto refuse_hidden = [&](const rlhf::TensorView& hidden, const char* text) {
    refuse([&](Inputs& inputs) { inputs.hidden = hidden; }, text);
  };
  float* data = a.hidden.data();
  refuse_hidden(view_of(reinterpret_cast<int32_t*>(data), {2, 3, 32}), "'hidden' must be float32");
  refuse_hidden(view_of(data, {6, 32}), "'hidden' must have 3 dimensions");
  refuse_hidden(view_of(data, {2, 3, 24}), "'hidden' must have a multiple of 16 columns");
  refuse_hidden(spoil_view(a.inputs().hidden)[3], "'hidden' must be contiguous");
  for (int64_t heads : {-4, 0, 3, 64}) {
    refuse([&](Inputs& inputs) { inputs.heads = heads; }, "'heads' must divide the 32 columns");
  }
  for (double bad : {static_cast<double>(NAN), HUGE_VAL, -HUGE_VAL}) {
    refuse([&](Inputs& inputs) { inputs.scale = bad; }, "'scale' must be finite");
    refuse([&](Inputs& inputs) { inputs.eps = bad; }, "'eps' must be in [0, 1]");
  }
  refuse([&](Inputs& inputs) { inputs.eps = -1e-9; }, "'eps' must be in [0, 1]");
  for (const rlhf::TensorView& wrong : spoil_view(a.view(a.upstream.data(), 32))) {
    CHECK_REFUSED(rlhf::ops::self_attention_backward(wrong, a.inputs(), a.states_view(),
                                                     a.attended_view(), {}),
                  "'grad_out'");
  }
}

// No positions: weights get gradients of 0.
void check_nothing(int64_t batch, int64_t length) {
  Layer<float> a(batch, length, 48, 3);
  a.both();
  for (const std::vector<float>& x : a.results()) {
    for (float each : x) CHECK(each == 0);
  }
}

}  // namespace

int main() {
  check_refusals();
  check_gradients(2, 3, 16, 2, 1);
  check_gradients(2, 13, 80, 5, 211);
  on_every_isa_of_pairs([] { check_lowered<Layer<float>, Layer<double>>(4, 37, 80, 5); });
  on_every_isa([] {
    check_results();
    check_narrow_gradients(3, 7, 80, 5);
    check_narrow_gradients(2, 60, 192, 6);
    check_narrow_gradients(50, 11, 48, 3);
    check_gradients(50, 11, 16, 2, 149);  // past a stretch of 512 rows
    check_same_bits<float>(31, 5, 48);
    check_same_bits<double>(5, 50, 80);
    check_left_memory();
    check_spoilt_position();
    check_nothing(0, 3);
    check_nothing(2, 0);
  });
  return 0;
}
