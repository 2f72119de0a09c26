// ppo_loss_from_logits in place by the kernel whose rows stay in shared memory, on emulated CUDA:
// bit for bit what the portable kernel of older devices gives, which the other test holds to fp64.
#include "cpu/ppo_loss_from_logits.h"
#include "cuda/row_resident.cuh"
#include "ops/device.h"
#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

constexpr size_t kHeld = 1024;  // what the kernel holds beside its slots

enum class Row {
  kPolicy,
  kBoth,
  kPtx,
  kNeither,
  kLeadingInfinities,
  kSilentShare,
  kCertain,
  kLevel,
  kHuge,
  kLargest,
  kCold,
  kNoEntry,
  kPlusInfinity,
  kNotANumber,
  kNoTarget,
  kNoTemperature,
  kCount
};
const std::vector<Row> kUsual = {Row::kPolicy, Row::kBoth, Row::kNeither, Row::kPtx};
std::vector<Row> every_kind() {
  std::vector<Row> kinds;
  for (int i = 0; i < static_cast<int>(Row::kCount); ++i) kinds.push_back(static_cast<Row>(i));
  return kinds;
}

template <typename S>
struct Batch {
  Batch(std::vector<Row> of, int64_t vocab, int64_t stride, size_t phase)
      : kinds(of),
        n(static_cast<int64_t>(of.size())),
        x(n, vocab, stride, phase),
        phase(phase),
        mask(new bool[of.size()]),
        ptx(new bool[of.size()]) {
    x.fill(static_cast<uint32_t>(vocab + static_cast<int64_t>(phase)));
    for (int64_t r = 0; r < n; ++r) {
      const size_t i = static_cast<size_t>(r);
      targets.push_back((r * 5003 + 1) % vocab);
      old.push_back(-9.0f - static_cast<float>(r % 3));
      ref.push_back(-9.3f);
      advantages.push_back(static_cast<float>(r % 5) - 1.75f);
      temperatures.push_back(0.6f + 0.2f * static_cast<float>(r % 4));
      mask[i] = kinds[i] != Row::kPtx && kinds[i] != Row::kNeither;
      ptx[i] = kinds[i] == Row::kBoth || kinds[i] == Row::kPtx;
      make(kinds[i], r);
    }
  }

  void make(Row kind, int64_t r) {
    const int64_t v = x.vocab, share = (v + 7) / 8;
    const size_t i = static_cast<size_t>(r);
    const bool half = std::is_same<S, Half>::value;
    for (int64_t j = 0; j < v; ++j) {
      const double sign = (j * 7) % 3 == 0 ? 1.0 : -1.0;
      if (kind == Row::kNeither) x.set(r, j, NAN);
      if (kind == Row::kLeadingInfinities && j < 3 * share) x.set(r, j, -test::kInfinity);
      if (kind == Row::kSilentShare && j / share == 4) x.set(r, j, -test::kInfinity);
      if (kind == Row::kLevel) x.set(r, j, 2.5);
      if (kind == Row::kHuge) x.set(r, j, sign * (half ? 6e4 : 1e30));
      if (kind == Row::kLargest) x.set(r, j, sign * (half ? 65504.0 : 3e38));
      if (kind == Row::kCold) x.set(r, j, sign * 5000.0 + static_cast<double>(j % 4));
      if (kind == Row::kNoEntry) x.set(r, j, -test::kInfinity);
    }
    if (kind == Row::kCertain) x.set(r, targets[i], 60.0);
    if (kind == Row::kPlusInfinity) x.set(r, v / 3, test::kInfinity);
    if (kind == Row::kNotANumber) x.set(r, v - 1, NAN);
    if (kind == Row::kNoTarget) targets[i] = v;
    if (kind == Row::kNeither) targets[i] = -100;
    if (kind == Row::kNoTemperature) temperatures[i] = -1.0f;
    if (kind == Row::kCold || (half && kind == Row::kHuge)) temperatures[i] = 1e-4f;
  }

  std::vector<Row> kinds;
  int64_t n;
  test::Logits<S> x;
  size_t phase;
  std::vector<int64_t> targets;
  std::vector<float> old, ref, advantages, temperatures;
  std::unique_ptr<bool[]> mask, ptx;
};

template <typename S>
struct Result {
  explicit Result(const Batch<S>& b)
      : grad(b.n, b.x.vocab, b.x.stride, b.phase), loss(1), stats(cpu::kObjectiveStats) {}
  test::Logits<S> grad;
  std::vector<float> loss, stats;
  test::Saved saved;
};

// In place in a copy of the batch's logits.
template <typename S>
std::unique_ptr<Result<S>> run(Batch<S>* b, const ops::PolicyScalars& scalars, int capability) {
  auto out = std::make_unique<Result<S>>(*b);
  std::memcpy(out->grad.row(0), b->x.row(0), b->x.values.size() * sizeof(S));
  ops::PolicyTensors t = {on_cuda(out->grad.view()),
                          on_cuda(view_of(b->targets)),
                          on_cuda(view_of(b->old)),
                          on_cuda(view_of(b->advantages)),
                          on_cuda(view_of(b->mask.get(), {b->n})),
                          {},
                          {},
                          on_cuda(view_of(b->ptx.get(), {b->n})),
                          on_cuda(view_of(b->temperatures)),
                          {},
                          {}};
  if (scalars.kl_coef != 0) t.ref_logprobs = on_cuda(view_of(b->ref));
  std::vector<double> space(
      static_cast<size_t>(ops::workspace_size("ppo_loss_from_logits", t.logits, b->n)), NAN);
  emulation::device().capability = capability;
  ops::ppo_loss_from_logits_(t, scalars, on_cuda(view_of(out->loss.data(), {})),
                             on_cuda(view_of(out->stats)),
                             on_cuda(test::saved_view(&out->saved, b->n)), on_cuda(view_of(space)));
  emulation::device().capability = 90;
  return out;
}

// NaN has many bit patterns, which mean the same.
template <typename T>
bool same(T a, T b) {
  return (a != a && b != b) || std::memcmp(&a, &b, sizeof(a)) == 0;
}

template <typename S>
void check(Batch<S>* b, const ops::PolicyScalars& scalars) {
  const int64_t v = b->x.vocab;
  const auto ours = run(b, scalars, 90), theirs = run(b, scalars, 80);
  CHECK(same(ours->loss[0], theirs->loss[0]));
  for (size_t i = 0; i < ours->stats.size(); ++i) CHECK(same(ours->stats[i], theirs->stats[i]));
  for (size_t i = 0; i < ours->saved.size(); ++i) CHECK(same(ours->saved[i], theirs->saved[i]));
  for (int64_t r = 0; r < b->n; ++r) {
    const Row kind = b->kinds[static_cast<size_t>(r)];
    const bool bad = kind >= Row::kNoEntry;
    for (int64_t j = 0; j < v; ++j) {
      const float mine = ours->grad.get(r, j);
      if (!same(mine, theirs->grad.get(r, j)) || std::isnan(mine) != bad) {
        std::fprintf(stderr, "V=%ld phase %zu: row %ld of kind %d, entry %ld: %g, portable %g\n",
                     static_cast<long>(v), b->phase, static_cast<long>(r), static_cast<int>(kind),
                     static_cast<long>(j), mine, theirs->grad.get(r, j));
        std::exit(1);
      }
      if (kind == Row::kNeither) CHECK(test::same_bits(mine, 0.0f));
    }
    for (int64_t j = v; r + 1 < b->n && j < b->x.stride; ++j) {  // what lies between rows stays
      CHECK(std::isnan(ours->grad.get(r, j)));
    }
  }
}

const ops::PolicyScalars kPlain = {1.0, 0.2, 0.0, 0.0, 1.7, "k3"};
const ops::PolicyScalars kAll = {1.0, 0.2, 0.1, 0.4, 1.7, "k3"};

// The shortest odd ones.
template <typename S>
int64_t fewest() {
  return 1025 * 16 / static_cast<int64_t>(sizeof(S)) + 1;
}

// The longest rows that the kernel takes; odd, so that they begin at all alignments.
template <typename S>
int64_t longest() {
  int64_t vocab = fewest<S>();
  while (cuda::fits_resident<S>(vocab + 2, kHeld)) vocab += 2;
  return vocab;
}

// All kinds of rows, of the shortest vocabulary; then few at each alignment of the tensor's begin,
// and the longest.
template <typename S>
void check_all() {
  const int64_t few = fewest<S>(), many = longest<S>();
  CHECK(cuda::fits_resident<S>(few, kHeld) && !cuda::fits_resident<S>(few - 2, kHeld));
  Batch<S> every(every_kind(), few, few, 1);
  check(&every, kPlain);
  check(&every, kAll);
  for (size_t phase = 0; phase < 16 / sizeof(S); ++phase) {
    Batch<S> apart(kUsual, few + 2, few + 7, phase);
    check(&apart, phase % 2 == 0 ? kPlain : kAll);
  }
  Batch<S> close({Row::kPolicy, Row::kLeadingInfinities, Row::kCold}, many, many, 3);
  check(&close, kAll);
  Batch<S> aligned({Row::kPolicy, Row::kSilentShare}, many - 1, (many + 15) / 8 * 8, 0);
  check(&aligned, kPlain);
}

}  // namespace

int main() {
  check_all<float>();
  check_all<BFloat16>();
  check_all<Half>();
  return 0;
}
