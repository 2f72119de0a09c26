#include "check.h"
#include "decoder.h"
#include "isa.h"
#include "ops.h"

using namespace rlhf::test;

namespace {

// Rows whose truth is a number.
template <typename T>
void check_rows_near(const std::vector<T>& got, const std::vector<double>& want, double tolerance) {
  CHECK(got.size() == want.size());
  size_t compared = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i])) continue;
    CHECK_NEAR(got[i], want[i], tolerance);
    ++compared;
  }
  CHECK(got.empty() || compared > 0);
}

// Caches hold the keys and values of all positions that are read, and nothing after them.
template <typename T>
void check_caches(const Model<T>& model, const Truth& truth, double tolerance) {
  const int64_t width = model.width, size = model.size();
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    const auto keys = model.keys[layer].read(), values = model.values[layer].read();
    for (int64_t b = 0; b < model.batch; ++b) {
      const int64_t start = model.starts.empty() ? 0 : model.starts[b];
      for (int64_t at = 0; at < model.heads * model.room * size; ++at) {
        const int64_t head = at / (model.room * size), place = at / size % model.room;
        const int64_t index = b * model.room * width + at;
        if (place >= model.length) CHECK(std::isnan(keys[index]) && std::isnan(values[index]));
        if (place < start || place >= model.length) continue;
        const double* row = truth.states[layer].data() + (b * model.length + place) * 3 * width;
        CHECK_NEAR(keys[index], row[width + head * size + at % size], tolerance);
        CHECK_NEAR(values[index], row[2 * width + head * size + at % size], tolerance);
      }
    }
  }
}

template <typename T>
void check_result(const Shape& shape, double tolerance, Lay lay = Lay::kByRow) {
  Model<T> model(shape, lay);
  model.run();
  check_near(model.result.read(), Truth(model).result, tolerance);
}

// Around a tile of 6 rows and the 96 that go together; panels of 64 columns that are whole and that
// are not; heads of one feature, 5, 12 and all.
void check_results() {
  for (int64_t length : {1, 2, 5, 6, 7, 13, 95, 96, 97, 130}) {
    for (Lay lay : {Lay::kByRow, Lay::kTurned, Lay::kPanels}) {
      check_result<float>({2, length, 48, 64, 4}, 3e-5, lay);
      check_result<double>({1, length, 32, 48, 2}, 1e-12, lay);
    }
  }
  for (int64_t batch : {3, 13, 60}) check_result<float>({batch, 4, 80, 112, 16, 3}, 5e-5);
  check_result<float>({4, 7, 128, 512, 4}, 5e-5);
  check_result<float>({4, 7, 64, 80, 1}, 5e-5);
  check_result<float>({101, 1, 64, 80, 64, 1}, 3e-5);
}

// Products in bfloat16 are as near as their factors, and have the same bits however matrices lie.
void check_rounded() {
  for (Shape shape : {Shape{2, 7, 48, 80, 4}, Shape{5, 1, 16, 16, 1}, Shape{3, 33, 80, 208, 5}}) {
    const Model<float> plain(shape);
    shape.lowered = true;
    Model<float> model(shape), turned(shape, Lay::kTurned);
    model.run();
    turned.run();
    const std::vector<double> truth = Truth(plain).result;
    const std::vector<float> found = model.result.read();
    check_near(found, truth, 0.2);
    CHECK(found == turned.result.read());
    double furthest = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
      furthest = std::max(furthest, std::fabs(found[i] - truth[i]));
    }
    CHECK(furthest > 1e-3);  // so they were rounded
  }
}

template <typename T>
void check_generated(const Model<T>& model, double tolerance) {
  for (int64_t prompt : {int64_t{1}, int64_t{6}, model.length - 1, model.length}) {
    Model<T> now = model;
    for (int64_t& start : now.starts) start = std::min(start, prompt - 1);
    const Truth truth(now);
    check_rows_near(now.generate(prompt), truth.result, tolerance);
    check_caches(now, truth, tolerance);
  }
}

// Steps after a prompt, with padding and without; more positions than one vector of shares holds.
void check_steps() {
  for (Lay lay : {Lay::kByRow, Lay::kTurned, Lay::kPanels}) {
    check_generated(Model<float>({3, 13, 48, 64, 4, 2, 15}, lay), 5e-5);
    check_generated(Model<double>({3, 13, 80, 48, 16, 2, 13}, lay), 1e-12);
  }
  check_generated(Model<float>({2, 70, 64, 80, 1, 2, 70}), 5e-5);
  check_generated(Model<double>({2, 19, 128, 64, 4, 3, 20}), 1e-12);
  Model<float> padded({4, 13, 48, 64, 4, 2, 15});
  padded.starts = {0, 12, 5, 6};
  check_generated(padded, 5e-5);
}

// Rows that are read go through the last feed-forward; the others keep what attention gave.
void check_rows() {
  for (std::vector<int64_t> rows : {std::vector<int64_t>{119}, {0, 1, 12, 13, 38, 95, 96, 97}}) {
    Model<float> model({20, 6, 48, 64, 4});
    model.rows_fed = rows;
    model.run();
    check_near(model.result.read(), Truth(model).result, 3e-5);
    model.starts.assign(20, 3);
    model.run();
    check_rows_near(model.result.read(), Truth(model).result, 3e-5);
  }
}

// Weights that lie otherwise, and one thread or three, give the same bits.
template <typename T>
void check_same_bits(const Shape& shape) {
  Model<T> a(shape), b(shape, Lay::kTurned), c(a), d(shape, Lay::kPanels);
  on_threads(1, [&] { a.run(); });
  on_threads(3, [&] { b.run(); });
  on_threads(3, [&] { c.run(); });
  on_threads(1, [&] { d.run(); });
  const std::vector<T> want = a.result.read();
  for (Model<T>* other : {&b, &c, &d}) {
    const std::vector<T> got = other->result.read();
    CHECK(got == want);
  }
  if (shape.room == 0) return;
  const std::vector<T> steps = a.generate(2);
  for (Model<T>* other : {&b, &d}) {
    const std::vector<T> got = other->generate(2);
    CHECK(got == steps);
  }
}

// Memory that a call leaves is not read by the next one.
void check_left_memory() {
  Model<float> before({2, 11, 48, 64, 3}), after(before), spoilt({40, 11, 64, 80, 2});
  before.run();
  std::fill(spoilt.hidden.begin(), spoilt.hidden.end(), NAN);
  for (int at : {2, 4, 8, 10}) {
    std::fill(spoilt.weights[1][at].begin(), spoilt.weights[1][at].end(), NAN);
  }
  spoilt.run();
  after.run();
  CHECK(before.result.read() == after.result.read());
}

// Results of other sequences and of earlier positions stay.
void check_spoilt_position() {
  Model<float> clean({5, 11, 48, 64, 3}), dirty(clean);
  const int64_t first = (2 * 11 + 8) * 48, end = 3 * 11 * 48;
  std::fill_n(dirty.hidden.begin() + first, 48, NAN);
  clean.run();
  dirty.run();
  const auto out = dirty.result.read(), right = clean.result.read();
  for (int64_t i = 0; i < 5 * 11 * 48; ++i) {
    const bool spoilt = i >= first && i < end;
    CHECK(spoilt ? std::isnan(out[i]) : out[i] == right[i]);
  }
}

using Inputs = rlhf::DecoderLayersInputs;

template <typename Change>
void refuse(Model<float>& model, int64_t used, const Change& change, const char* text) {
  Inputs inputs = model.inputs(used);
  change(inputs);
  CHECK_REFUSED(rlhf::ops::decoder_layers(inputs, model.result_view()), text);
}

void check_weight_refusals() {
  static constexpr const char* kNames[kWeights] = {
      "norm_1 weight", "norm_1 bias", "in weight", "in bias", "out weight",  "out bias",
      "norm_2 weight", "norm_2 bias", "up weight", "up bias", "down weight", "down bias"};
  Model<float> a({2, 1, 32, 80, 4, 2, 8});
  for (int at = 0; at < kWeights; ++at) {
    const auto wrong = spoil_view(a.inputs().weights[kWeights + at]);
    for (size_t i = 0; i < wrong.size(); ++i) {
      const bool bias = at == 9 && (i == 1 || i == 2);  // which says how many columns U has
      const std::string name = bias ? "'layer 1, up " : std::string("'layer 1, ") + kNames[at];
      refuse(a, 0, [&](Inputs& x) { x.weights[kWeights + at] = wrong[i]; }, name.c_str());
    }
  }
  refuse(a, 0, [](Inputs& x) { x.weights.pop_back(); }, "'layers' must be 12 tensors for each");
  refuse(a, 0, [](Inputs& x) { x.weights.clear(); }, "'layers' must be 12 tensors for each");
}

void check_cache_refusals() {
  Model<float> a({2, 1, 32, 48, 4, 2, 8});
  for (int64_t layer : {0, 1}) {
    const std::string at = "[" + std::to_string(layer) + "]'";
    for (const rlhf::TensorView& wrong : spoil_view(a.inputs().keys[layer])) {
      refuse(a, 5, [&](Inputs& x) { x.keys[layer] = wrong; }, ("'keys" + at).c_str());
      refuse(a, 5, [&](Inputs& x) { x.values[layer] = wrong; }, ("'values" + at).c_str());
    }
  }
  refuse(a, 5, [](Inputs& x) { x.keys.pop_back(); }, "'cache' must have keys and values of each");
  refuse(a, 5, [](Inputs& x) { x.values.clear(); }, "'cache' must have keys and values of each");
  for (int64_t used : {-1, 1}) {
    const auto without = [](Inputs& x) {
      x.keys.clear();
      x.values.clear();
    };
    refuse(a, used, without, "'used' must be 0, or");
  }
  refuse(a, 8, [](Inputs&) {}, "'keys[0]' must have room for 9 positions");
  Model<float> longer({2, 3, 32, 48, 4, 2, 8});
  refuse(longer, 1, [](Inputs&) {}, "'used' must be 0, or");
}

void check_refusals() {
  Model<float> a({2, 3, 32, 48, 4});
  float* data = a.hidden.data();
  const auto refuse_hidden = [&](const rlhf::TensorView& view, const char* text) {
    refuse(a, 0, [&](Inputs& x) { x.hidden = view; }, text);
  };
  refuse_hidden(view_of(reinterpret_cast<int32_t*>(data), {2, 3, 32}), "'hidden' must be float32");
  refuse_hidden(view_of(data, {6, 32}), "'hidden' must have 3 dimensions");
  refuse_hidden(view_of(data, {2, 3, 24}), "'hidden' must have a multiple of 16 columns");
  refuse_hidden(spoil_view(a.inputs().hidden)[3], "'hidden' must be contiguous");
  refuse_hidden(spoil_view(a.inputs().hidden)[4], "'hidden' must be on the CPU");
  for (int64_t heads : {-4, 0, 3, 64}) {
    refuse(a, 0, [&](Inputs& x) { x.heads = heads; }, "'heads' must divide the 32 columns");
  }
  for (double bad : {static_cast<double>(NAN), HUGE_VAL, -HUGE_VAL}) {
    refuse(a, 0, [&](Inputs& x) { x.scale = bad; }, "'scale' must be finite");
    refuse(a, 0, [&](Inputs& x) { x.eps = bad; }, "'eps' must be in [0, 1]");
  }
  std::vector<int64_t> numbers = {0, 3, 3, 6, -1, 2};
  const auto part = [&](int64_t first, int64_t count) {
    return view_of(numbers.data() + first, {count});
  };
  for (int64_t first : {1, 2, 4}) {  // twice, past the end, before the start
    refuse(a, 0, [&](Inputs& x) { x.rows = part(first, 2); }, "'rows' must be ascending numbers");
    refuse(a, 0, [&](Inputs& x) { x.starts = part(first, 2); }, "'starts' must be numbers from 0");
  }
  refuse(a, 0, [&](Inputs& x) { x.starts = part(0, 1); }, "'starts' must have shape [2]");
  const auto narrow = view_of(reinterpret_cast<int32_t*>(numbers.data()), {2});
  refuse(a, 0, [&](Inputs& x) { x.rows = narrow; }, "'rows' must be int64");
  refuse(a, 0, [&](Inputs& x) { x.starts = narrow; }, "'starts' must be int64");
}

}  // namespace

int main() {
  check_refusals();
  check_weight_refusals();
  check_cache_refusals();
  on_every_isa_of_pairs(check_rounded);
  on_every_isa([] {
    check_results();
    check_steps();
    check_rows();
    check_same_bits<float>({31, 5, 48, 208, 4, 2, 6});
    check_same_bits<double>({5, 50, 80, 64, 5, 2, 50});
    check_left_memory();
    check_spoilt_position();
    Model<float>({0, 3, 48, 64, 3}).run();
    Model<float>({2, 0, 48, 64, 3}).run();
  });
  return 0;
}
