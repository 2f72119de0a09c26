// sample on the CPU. Without truncation: one read of the row, then one block of it again. With it:
// a read for the candidates, one for the kept mass. Formula: csrc/math/sample.h.
#include "cpu/sample.h"

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/parallel.h"
#include "math/sample.h"

namespace rlhf::cpu {
namespace {

static_assert(kRowMassScale == math::kMassScale);

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Entry {
  uint64_t key;
  uint64_t weight;

  int digit(int shift) const { return static_cast<int>(key >> shift & 255); }
};

// Kept from row to row: fresh pages for every row would cost more than the work on them.
struct Scratch {
  std::vector<RowBlock> blocks;
  std::vector<double> maxima, values;
  std::vector<uint64_t> masses;
  std::vector<Entry> entries;
};

// Grows only, and never clears.
template <typename T>
T* reserve(std::vector<T>* vector, int64_t count) {
  if (vector->size() < static_cast<size_t>(count)) vector->resize(static_cast<size_t>(count));
  return vector->data();
}

Scratch& scratch_of_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

int digits_of(uint64_t range) {
  int bits = 8;
  while (bits < 64 && range >> bits) ++bits;
  return bits;
}

// The largest value v with sum_{values >= v} weight >= need; without weights each counts 1. If all
// of them weigh less, the smallest value that weighs anything. 8 bits of the keys' distance from
// the smallest are decided per pass, from the highest, and only the entries that share them stay.
template <typename F>
double find_threshold(const double* values, const uint64_t* weights, int64_t count, uint64_t need,
                      Scratch* scratch) {
  using Key = decltype(math::order_key(F()));
  Entry* entries = reserve(&scratch->entries, count);
  Key lowest_key = ~Key(0), highest_key = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Key key = math::order_key(static_cast<F>(values[i]));
    entries[i] = {key, weights ? weights[i] : 1};
    lowest_key = key < lowest_key ? key : lowest_key;
    highest_key = key > highest_key ? key : highest_key;
  }
  for (int64_t i = 0; i < count; ++i) entries[i].key -= lowest_key;
  int shift = digits_of(highest_key - lowest_key) - 8;
  for (;; shift = shift > 8 ? shift - 8 : 0) {
    uint64_t histogram[256] = {};
    for (int64_t i = 0; i < count; ++i) histogram[entries[i].digit(shift)] += entries[i].weight;
    int digit = 255, lowest = 255;
    for (; digit >= 0 && histogram[digit] < need; --digit) {
      if (histogram[digit] > 0) lowest = digit;
      need -= histogram[digit];
    }
    if (digit < 0) {
      digit = lowest;
      need = histogram[lowest];
    }
    int64_t left = 0;
    for (int64_t i = 0; i < count; ++i) {
      const Entry entry = entries[i];
      entries[left] = entry;
      left += entry.digit(shift) == digit;
    }
    count = left;
    if (shift == 0) return math::from_order_key(static_cast<Key>(entries[0].key + lowest_key));
  }
}

double find_threshold(DType dtype, const double* values, const uint64_t* weights, int64_t count,
                      uint64_t need, Scratch* scratch) {
  return dtype == DType::kFloat64 ? find_threshold<double>(values, weights, count, need, scratch)
                                  : find_threshold<float>(values, weights, count, need, scratch);
}

// One row to be truncated: the entries >= threshold are kept, `kept` of them.
struct Truncation {
  const RowFunctions& functions;
  const RowArgs& args;
  DType dtype;
  int64_t top_k;
  double top_p;
  Scratch& scratch;
  double threshold = -kInfinity;
  int64_t kept = 0;

  void find(const RowState& state, double mass);

 private:
  double bound_of_candidates(const RowState& state, double mass);
  void drop_candidates();
};

// No entry below it can be kept. The k-th largest of at least k maxima of disjoint groups is at
// most the k-th largest entry. For top-p: all entries below (1 - p) mass / V together are less
// than what may be dropped; the half leaves room for rounding.
double Truncation::bound_of_candidates(const RowState& state, double mass) {
  if (top_k > 0) {
    double* maxima = reserve(&scratch.maxima, args.vocab);
    const int64_t groups = functions.group_maxima(args, maxima);
    if (top_k > groups) return -kInfinity;
    return find_threshold(dtype, maxima, nullptr, groups, static_cast<uint64_t>(top_k), &scratch);
  }
  const double share = 0.5 * (1.0 - top_p) * mass / static_cast<double>(args.vocab);
  const double smallest = 0.5 / math::kMassScale;
  return state.max + std::log(share > smallest ? share : smallest) / args.inverse_temperature;
}

// Leave only the candidates that are kept.
void Truncation::drop_candidates() {
  int64_t left = 0;
  for (int64_t i = 0; i < kept; ++i) {
    scratch.values[left] = scratch.values[i];
    scratch.masses[left] = scratch.masses[i];
    left += scratch.values[i] >= threshold;
  }
  kept = left;
}

void Truncation::find(const RowState& state, double mass) {
  double* values = reserve(&scratch.values, args.vocab);
  uint64_t* masses = reserve(&scratch.masses, args.vocab);
  const double bound = bound_of_candidates(state, mass);
  kept = functions.collect(args, state.max, bound, values, masses);
  if (top_k > 0) {
    threshold =
        find_threshold(dtype, values, nullptr, kept, static_cast<uint64_t>(top_k), &scratch);
    drop_candidates();
  }
  if (top_p < 1.0) {
    uint64_t total = 0;
    if (top_k > 0) {
      for (int64_t i = 0; i < kept; ++i) total += masses[i];
    } else {
      total = functions.mass(args, state.max);
    }
    threshold =
        find_threshold(dtype, values, masses, kept, math::nucleus_need(top_p, total), &scratch);
    drop_candidates();
  }
}

RowSample sample_row(const RowFunctions& functions, DType dtype, const RowArgs& args, int64_t top_k,
                     double top_p, double u) {
  Scratch& scratch = scratch_of_thread();
  const int64_t count = (args.vocab + kRowBlock - 1) / kRowBlock;
  RowBlock* blocks = reserve(&scratch.blocks, count);
  RowState state;
  functions.blocks(args, &state, blocks);
  const double mass = blocks[count - 1].mass;
  if (!(mass > 0 && mass < kInfinity)) return {-1, NAN, NAN, NAN};
  RowState kept_state = state;
  double threshold = -kInfinity;
  if (top_k >= args.vocab) top_k = 0;
  if (top_k > 0 || top_p < 1.0) {
    Truncation truncation{functions, args, dtype, top_k, top_p, scratch};
    truncation.find(state, mass);
    if (truncation.kept < args.vocab) {
      threshold = truncation.threshold;
      functions.kept_blocks(args, threshold, &kept_state, blocks);
    }
  }
  const int64_t token = functions.draw(args, threshold, blocks, u);
  return {token, logprob_of(functions, args, state, token),
          logprob_of(functions, args, kept_state, token), state.entropy};
}

template <typename C>
void sample_rows(const SampleInputs& inputs, const SampleOutputs& outputs) {
  const DType dtype = inputs.logits.dtype;
  const RowFunctions& functions = row_functions_for(dtype);
  const Rows logits(inputs.logits);
  const Temperatures temperatures(inputs.temperatures, inputs.temperature);
  const int64_t *row_ids = inputs.row_ids.as<int64_t>(),
                *positions = inputs.positions.as<int64_t>();
  parallel_rows(logits.count, logits.vocab, [&](int64_t row) {
    const RowArgs args = {logits.row(row), nullptr, logits.vocab, temperatures.inverse_of(row)};
    const double u = math::uniform_at(inputs.seed, row_ids[row], positions[row]);
    const RowSample drawn = sample_row(functions, dtype, args, inputs.top_k, inputs.top_p, u);
    outputs.tokens.as<int64_t>()[row] = drawn.token;
    outputs.logprobs.as<C>()[row] = static_cast<C>(drawn.logprob);
    outputs.truncated_logprobs.as<C>()[row] = static_cast<C>(drawn.truncated_logprob);
    outputs.entropy.as<C>()[row] = static_cast<C>(drawn.entropy);
  });
}

}  // namespace

RowSample sample_row(DType dtype, const RowArgs& args, int64_t top_k, double top_p, double u) {
  return sample_row(row_functions_for(dtype), dtype, args, top_k, top_p, u);
}

void sample(const SampleInputs& inputs, const SampleOutputs& outputs) {
  if (inputs.logits.dtype == DType::kFloat64) {
    sample_rows<double>(inputs, outputs);
  } else {
    sample_rows<float>(inputs, outputs);
  }
}

}  // namespace rlhf::cpu
