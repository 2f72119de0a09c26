// ppo_loss_from_logits on emulated CUDA against the CPU column in fp64.
#include "cpu/ppo_loss_from_logits.h"
#include "ops/device.h"
#include "tests/cuda/rows.h"

using namespace rlhf;
using test::on_cuda;
using test::view_of;

namespace {

enum class Reference { kNone, kLogprobs, kLogits };

// One batch of policy, ptx, both and masked rows, in the storage type and widened.
template <typename S>
struct Batch {
  Batch(int64_t n, int64_t vocab, int64_t stride, size_t phase)
      : n(n),
        x(n, vocab, stride, phase),
        y(n, vocab, stride + 1, 1),
        targets(test::targets_for(n, vocab)),
        mask(new bool[static_cast<size_t>(n)]),
        ptx(new bool[static_cast<size_t>(n)]) {
    x.fill(static_cast<uint32_t>(vocab));
    y.fill(static_cast<uint32_t>(vocab) + 17);
    for (int64_t r = 0; r < n; ++r) {
      const double spread = static_cast<double>(r % 5) - 2.0;
      advantages.push_back(static_cast<float>(spread));
      temperatures.push_back(0.6f + 0.2f * static_cast<float>(r % 4));
      mask[static_cast<size_t>(r)] = r % 4 < 2;
      ptx[static_cast<size_t>(r)] = r % 4 == 1 || r % 4 == 2;
    }
    add_logprobs();
    for (int64_t r = 3; r < n; r += 4) {  // counts in neither mask: must not matter
      targets[static_cast<size_t>(r)] = -100;
      for (int64_t j = 0; j < vocab; ++j) x.set(r, j, NAN);
    }
  }

  // Close to the policy's own, or the ratio's exponential leaves what 16 bits hold.
  void add_logprobs() {
    std::vector<double> wide = x.wide(), logprobs(static_cast<size_t>(n)), rest(logprobs);
    test::Saved saved;
    ops::gather_logprobs(view_of(wide.data(), {n, x.vocab}), view_of(targets), std::nullopt,
                         view_of(temperatures), 1.0, view_of(logprobs), view_of(rest),
                         view_of(rest), test::saved_view(&saved, n));
    for (size_t r = 0; r < logprobs.size(); ++r) {
      old.push_back(static_cast<float>(logprobs[r] + 0.07 * advantages[r] + 0.04));
      ref.push_back(static_cast<float>(logprobs[r] + 0.3));
    }
  }

  int64_t n;
  test::Logits<S> x, y;
  std::vector<int64_t> targets;
  std::vector<float> old, ref, advantages, temperatures;
  std::unique_ptr<bool[]> mask, ptx;
};

ops::PolicyTensors moved(ops::PolicyTensors t) {
  for (TensorView* view : {&t.logits, &t.targets, &t.old_logprobs, &t.advantages, &t.mask}) {
    *view = on_cuda(*view);
  }
  for (ops::OptionalView* view : {&t.ref_logprobs, &t.ref_logits, &t.ptx_mask, &t.temperatures,
                                  &t.denominator, &t.ptx_denominator}) {
    if (*view) *view = on_cuda(**view);
  }
  return t;
}

template <typename C>
struct Outputs {
  explicit Outputs(int64_t n) : n(n), loss(1), stats(cpu::kObjectiveStats) {}
  TensorView loss_view() { return view_of(loss.data(), {}); }
  TensorView rows() { return test::saved_view(&saved, n); }
  int64_t n;
  std::vector<C> loss, stats;
  test::Saved saved;
};

const ops::PolicyScalars kScalars = {1.0, 0.2, 0.1, 0.4, 1.7, "k3"};

template <typename S>
ops::PolicyTensors tensors_of(Batch<S>* b, Reference reference, double* denominator) {
  const int64_t n = b->n;
  ops::PolicyTensors t = {b->x.view(),
                          view_of(b->targets),
                          view_of(b->old),
                          view_of(b->advantages),
                          view_of(b->mask.get(), {n}),
                          {},
                          {},
                          view_of(b->ptx.get(), {n}),
                          view_of(b->temperatures),
                          {},
                          {}};
  if (reference == Reference::kLogprobs) t.ref_logprobs = view_of(b->ref);
  if (reference == Reference::kLogits) t.ref_logits = b->y.view();
  if (denominator != nullptr) t.denominator = view_of(denominator, {});
  return t;
}

ops::PolicyScalars scalars_for(Reference reference) {
  ops::PolicyScalars scalars = kScalars;
  if (reference == Reference::kNone) scalars.kl_coef = 0;
  return scalars;
}

Outputs<float> on_device(const ops::PolicyTensors& t, const ops::PolicyScalars& s, bool inplace) {
  const int64_t n = t.logits.shape[0];
  Outputs<float> out(n);
  const ops::PolicyTensors device = moved(t);
  std::vector<double> space(
      static_cast<size_t>(ops::workspace_size("ppo_loss_from_logits", device.logits, n)), NAN);
  (inplace ? ops::ppo_loss_from_logits_ : ops::ppo_loss_from_logits)(
      device, s, on_cuda(out.loss_view()), on_cuda(view_of(out.stats)), on_cuda(out.rows()),
      on_cuda(view_of(space)));
  return out;
}

// The CPU's fp64 result on widened inputs, and its gradient.
template <typename S>
Outputs<double> truth_of(Batch<S>* b, Reference reference, double* denominator, double upstream,
                         std::vector<double>* slope) {
  std::vector<double> x = b->x.wide(), y = b->y.wide();
  std::vector<double> old(b->old.begin(), b->old.end()), ref(b->ref.begin(), b->ref.end());
  std::vector<double> advantages(b->advantages.begin(), b->advantages.end());
  const int64_t n = b->n, v = b->x.vocab;
  ops::PolicyTensors t = tensors_of(b, reference, denominator);
  t.logits = view_of(x.data(), {n, v});
  t.old_logprobs = view_of(old);
  t.advantages = view_of(advantages);
  if (t.ref_logprobs) t.ref_logprobs = view_of(ref);
  if (t.ref_logits) t.ref_logits = view_of(y.data(), {n, v});
  Outputs<double> out(n);
  ops::ppo_loss_from_logits(t, scalars_for(reference), out.loss_view(), view_of(out.stats),
                            out.rows(), std::nullopt);
  slope->assign(x.size(), 0.0);
  ops::ppo_loss_from_logits_backward(t.logits, t.ref_logits, t.targets, out.rows(),
                                     view_of(&upstream, {}), view_of(slope->data(), {n, v}));
  return out;
}

void check_scalars(const Outputs<float>& out, const Outputs<double>& truth) {
  CHECK_NEAR(out.loss[0], truth.loss[0], 3e-6 * (1.0 + std::fabs(truth.loss[0])));
  for (size_t i = 0; i < truth.stats.size(); ++i) {
    CHECK_AGREE(out.stats[i], truth.stats[i], 3e-6 * (1.0 + std::fabs(truth.stats[i])));
  }
}

template <typename S>
void check(Batch<S>* b, Reference reference, double* denominator) {
  const int64_t n = b->n, v = b->x.vocab;
  float upstream = 1.5f;
  ops::PolicyTensors t = tensors_of(b, reference, denominator);
  Outputs<float> out = on_device(t, scalars_for(reference), false);
  test::Logits<S> grad(n, v, v, 3), plain(n, v, b->x.stride, 0), inplace(n, v, b->x.stride, 0);
  const auto backward = [&](float* factor, const TensorView& into) {
    const ops::PolicyTensors device = moved(t);
    ops::ppo_loss_from_logits_backward(device.logits, device.ref_logits, device.targets,
                                       on_cuda(out.rows()), on_cuda(view_of(factor, {})),
                                       on_cuda(into));
  };
  backward(&upstream, grad.view());
  std::vector<double> slope;
  const Outputs<double> truth = truth_of(b, reference, denominator, upstream, &slope);
  check_scalars(out, truth);
  // The ratio and k3 come from log-probs rounded to fp32.
  test::check_gradient(&grad, slope, 2e-5, truth.saved, 1e-6);

  float one = 1.0f;
  backward(&one, plain.view());
  for (int64_t r = 0; r < n; ++r) std::memcpy(inplace.row(r), b->x.row(r), sizeof(S) * v);
  t.logits = inplace.view();
  Outputs<float> again = on_device(t, scalars_for(reference), true);
  CHECK(test::same_bits(again.loss[0], out.loss[0]));
  for (int64_t r = 0; r < n; ++r) CHECK(test::same_row(&inplace, r, &plain, r));
  for (int64_t r = 0; r + 1 < n; ++r) {  // what lies between rows stays
    for (int64_t j = v; j < b->x.stride; ++j) CHECK(std::isnan(inplace.get(r, j)));
  }
  ops::ppo_loss_from_logits_scale_(on_cuda(inplace.view()), on_cuda(again.rows()),
                                   on_cuda(view_of(&upstream, {})));
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t j = 0; j < v; ++j) {
      S expected;
      cpu::store(&expected, plain.get(r, j) * upstream);
      CHECK(inplace.get(r, j) == cpu::load(&expected));
    }
  }
}

template <typename S>
void check_values() {
  double denominator = 11.0;
  for (const int64_t vocab : {1, 2, 7, 8, 9, 31, 2047, 2048, 2049}) {
    Batch<S> batch(9, vocab, vocab % 2 == 0 ? vocab + 1 : vocab, static_cast<size_t>(vocab % 3));
    check(&batch, Reference::kNone, nullptr);
    check(&batch, Reference::kLogprobs, &denominator);
    check(&batch, Reference::kLogits, nullptr);
  }
}

// Sums over rows take more than one block, and no row's gradient depends on the others.
void check_many_rows() {
  Batch<BFloat16> batch(1030, 9, 9, 0);
  check(&batch, Reference::kLogprobs, nullptr);
}

void check_masked_out() {
  Batch<float> batch(4, 20, 20, 0);
  for (int64_t r = 0; r < 4; ++r) {
    batch.mask[static_cast<size_t>(r)] = batch.ptx[static_cast<size_t>(r)] = false;
  }
  const auto t = tensors_of(&batch, Reference::kLogits, nullptr);
  const Outputs<float> out = on_device(t, kScalars, true);
  CHECK(out.loss[0] == 0.0f);
  for (const float value : out.stats) CHECK(value == 0.0f);
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t j = 0; j < 20; ++j) CHECK(test::same_bits(batch.x.get(r, j), 0.0f));
  }
}

// The ratio is 1 bit for bit when old is what gather_logprobs gave, at every alignment.
template <typename S>
void check_ratio() {
  for (size_t phase = 0; phase < 16 / sizeof(S); ++phase) {
    Batch<S> batch(4, 3001, 3002, phase);
    std::vector<float> logprobs(4), entropy(4), logsumexp(4);
    test::Saved saved;
    ops::gather_logprobs(on_cuda(batch.x.view()), on_cuda(view_of(batch.targets)),
                         on_cuda(view_of(batch.mask.get(), {4})),
                         on_cuda(view_of(batch.temperatures)), 1.0, on_cuda(view_of(logprobs)),
                         on_cuda(view_of(entropy)), on_cuda(view_of(logsumexp)),
                         on_cuda(test::saved_view(&saved, 4)));
    batch.old = logprobs;
    const auto t = tensors_of(&batch, Reference::kNone, nullptr);
    const Outputs<float> out = on_device(t, scalars_for(Reference::kNone), false);
    CHECK(out.stats[4] == 1.0f && out.stats[6] == 1.0f && out.stats[7] == 0.0f);
  }
}

// What the CPU refuses by reading gives NaN here, and nothing outside the row is touched.
void check_bad_values() {
  for (const double bad : {0.0, -1.0, static_cast<double>(NAN), HUGE_VAL}) {
    Batch<float> batch(4, 50, 50, 0);
    double denominator = bad;
    const auto t = tensors_of(&batch, Reference::kNone, &denominator);
    const Outputs<float> out = on_device(t, scalars_for(Reference::kNone), true);
    CHECK(std::isnan(out.loss[0]));
    for (int64_t j = 0; j < 50; ++j) {
      CHECK(std::isnan(batch.x.get(0, j)));
      CHECK(!std::isnan(batch.x.get(2, j)));  // a ptx row, with a denominator of its own
    }
  }
  Batch<Half> batch(8, 50, 50, 0);
  batch.targets[0] = 50;
  batch.targets[2] = int64_t{1} << 40;
  batch.temperatures[4] = -1.0f;
  const auto t = tensors_of(&batch, Reference::kLogits, nullptr);
  const Outputs<float> out = on_device(t, kScalars, true);
  CHECK(std::isnan(out.loss[0]));
  for (int64_t r = 0; r < 8; ++r) {
    const bool bad = r == 0 || r == 2 || r == 4;
    for (int64_t j = 0; j < 50; ++j) CHECK(std::isnan(batch.x.get(r, j)) == bad);
  }
}

void check_refusals() {
  Batch<float> batch(4, 8, 8, 0);
  double denominator = 2.0;
  auto t = moved(tensors_of(&batch, Reference::kNone, &denominator));
  Outputs<float> out(4);
  const auto call = [&](const ops::OptionalView& workspace) {
    ops::ppo_loss_from_logits(t, scalars_for(Reference::kNone), on_cuda(out.loss_view()),
                              on_cuda(view_of(out.stats)), on_cuda(out.rows()), workspace);
  };
  CHECK_REFUSED(call(std::nullopt), "'workspace' is missing");
  t.denominator = view_of(&denominator, {});
  CHECK_REFUSED(call(std::nullopt), "'denominator' is on the CPU, but 'logits' is on cuda:0");
}

}  // namespace

int main() {
  check_values<float>();
  check_values<BFloat16>();
  check_values<Half>();
  Batch<BFloat16> large(2, 50257, 50257, 0);
  check(&large, Reference::kLogits, nullptr);
  check_many_rows();
  check_masked_out();
  check_ratio<float>();
  check_ratio<BFloat16>();
  check_bad_values();
  check_refusals();
  return 0;
}
