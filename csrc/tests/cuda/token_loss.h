// ppo_loss and value_loss have one signature; so have their tests.
#pragma once

#include "cuda/launch.cuh"
#include "tests/cuda/tokens.h"

namespace rlhf::test {

using LossOp = void (*)(const TensorView&, const TensorView&, const TensorView&, const TensorView&,
                        double, const ops::OptionalView&, const TensorView&, const TensorView&,
                        const TensorView&, const TensorView&, const ops::OptionalView&);

struct LossCase {
  const char* name;
  LossOp op;
  size_t stats;
  double cliprange;
};

struct LossInputs {
  std::vector<float> first, second, third;
  std::vector<char> mask;
};

template <typename T>
struct LossResult {
  std::vector<T> sums;  // the loss, then the statistics
  std::vector<T> grad;
  std::vector<double> scale = {-1.0};
};

// `second` lies close to `first`, as old values do.
inline LossInputs make_inputs(int64_t count, Kept kept) {
  LossInputs in;
  in.mask = make_mask(count, kept, 4);
  in.first = hidden_normal(in.mask, 1.0, 1);
  in.second = hidden_normal(in.mask, 0.3, 2);
  in.third = hidden_normal(in.mask, 1.0, 3);
  for (size_t i = 0; i < in.mask.size(); ++i) {
    if (in.mask[i]) in.second[i] = i % 7 ? in.first[i] + in.second[i] : in.first[i];
  }
  return in;
}

// The values, the first of which stands `phase` elements past a 16-byte boundary.
template <typename T, typename From>
std::vector<T> shifted(const std::vector<From>& values, size_t phase) {
  std::vector<T> out(phase);
  out.insert(out.end(), values.begin(), values.end());
  return out;
}

template <typename T>
LossResult<T> run_loss(const LossCase& loss, const LossInputs& in, bool cuda,
                       std::optional<double> denominator = {}, size_t phase = 0) {
  const auto count = static_cast<int64_t>(in.mask.size());
  std::vector<T> first = shifted<T>(in.first, phase), second = shifted<T>(in.second, phase);
  std::vector<T> third = shifted<T>(in.third, phase);
  std::vector<char> mask = shifted<char>(in.mask, phase);
  LossResult<T> out;
  out.sums.assign(1 + loss.stats, T(-1));
  out.grad.assign(in.mask.size(), T(-1));
  const auto place = [&](const TensorView& view) { return cuda ? on_cuda(view) : view; };
  double divisor = denominator.value_or(0);
  ops::OptionalView denominator_view, workspace_view;
  if (denominator) denominator_view = place(view_of(&divisor, {}));
  const auto tokens = [&](auto& values) { return place(view_of(values.data() + phase, {count})); };
  const TensorView first_view = tokens(first);
  const auto keep = place(view_of(reinterpret_cast<bool*>(mask.data() + phase), {count}));
  std::vector<double> workspace = make_workspace(loss.name, first_view, count);
  if (cuda) workspace_view = place(view_of(workspace));
  loss.op(first_view, tokens(second), tokens(third), keep, loss.cliprange, denominator_view,
          place(view_of(out.sums.data(), {})),
          place(view_of(out.sums.data() + 1, {static_cast<int64_t>(loss.stats)})),
          place(view_of(out.grad)), place(view_of(out.scale.data(), {})), workspace_view);
  return out;
}

// Against the CPU in fp64 (rounding of the arithmetic) and in fp32 (rounding of the results).
inline void check_loss(const LossCase& loss, const LossInputs& in,
                       std::optional<double> denominator) {
  const auto got = run_loss<float>(loss, in, true, denominator);
  const auto same = run_loss<float>(loss, in, false, denominator);
  const auto truth = run_loss<double>(loss, in, false, denominator);
  for (size_t i = 0; i < got.sums.size(); ++i) {
    CHECK_NEAR(got.sums[i], truth.sums[i], 2e-6 * (0.1 + std::fabs(truth.sums[i])));
    CHECK_NEAR(got.sums[i], same.sums[i], 1.3e-7 * std::fabs(truth.sums[i]));
  }
  for (size_t i = 0; i < got.grad.size(); ++i) {
    CHECK_NEAR(got.grad[i], truth.grad[i], 1e-6 * (0.1 + std::fabs(truth.grad[i])));
    CHECK(in.mask[i] || got.grad[i] == 0.0f);
  }
  CHECK(got.scale[0] == truth.scale[0]);
}

inline void check_bad_denominator(const LossCase& loss, double denominator) {
  const auto got = run_loss<float>(loss, make_inputs(300, Kept::kSome), true, denominator);
  for (const float sum : got.sums) CHECK(std::isnan(sum));
  CHECK(std::isnan(got.scale[0]));
}

inline void check_order_and_repeat(const LossCase& loss) {
  const LossInputs in = make_inputs(5000, Kept::kSome);
  const auto run = [&] { return run_loss<float>(loss, in, true); };
  const auto forward = in_order("forward", run);
  for (const char* order : {"forward", "reverse", "shuffled"}) {
    const auto again = in_order(order, run);
    CHECK(same_bits(again.sums, forward.sums) && same_bits(again.grad, forward.grad));
  }
}

inline void check_loss_refusals(const LossCase& loss, const char* first, const char* second) {
  std::vector<float> x(4), out(1 + loss.stats);
  std::vector<double> wide(4), workspace(32), scale(1);
  std::vector<char> mask(4, 1);
  const TensorView values = on_cuda(view_of(x)), keep = on_cuda(mask_view(mask, {4}));
  const auto call = [&](const TensorView& one, const TensorView& two, const TensorView& kept,
                        const ops::OptionalView& divisor, const ops::OptionalView& space) {
    loss.op(one, two, values, kept, loss.cliprange, divisor, on_cuda(view_of(out.data(), {})),
            on_cuda(view_of(out)), values, on_cuda(view_of(scale.data(), {})), space);
  };
  const ops::OptionalView space = on_cuda(view_of(workspace));
  CHECK_REFUSED(call(on_cuda(view_of(wide)), values, keep, {}, space),
                std::string("'") + first + "' is float64 on a CUDA device");
  CHECK_REFUSED(call(values, view_of(x), keep, {}, space),
                std::string("'") + second + "' is on the CPU, but '" + first + "' is on cuda:0");
  CHECK_REFUSED(call(values, values, mask_view(mask, {4}), {}, space), "'mask' is on the CPU");
  CHECK_REFUSED(call(values, values, keep, view_of(scale.data(), {}), space),
                "'denominator' is on the CPU");
  CHECK_REFUSED(call(values, values, keep, {}, {}), "'workspace' is missing");
  CHECK_REFUSED(call(values, values, keep, {}, on_cuda(view_of(scale))), "'workspace'");
}

// A view that begins anywhere gives the same bits.
inline void check_alignment(const LossCase& loss) {
  const LossInputs in = make_inputs(9001, Kept::kSome);
  const auto aligned = run_loss<float>(loss, in, true);
  for (const size_t phase : {1, 2, 3}) {
    const auto shifted = run_loss<float>(loss, in, true, {}, phase);
    CHECK(same_bits(shifted.sums, aligned.sums) && same_bits(shifted.grad, aligned.grad));
  }
}

// On the device that emulation::device() pretends to be.
inline void check_loss_kernels(const LossCase& loss) {
  for (const int64_t count : kTokenCounts) {
    for (const Kept kept : {Kept::kNone, Kept::kAll, Kept::kSome, Kept::kLast}) {
      check_loss(loss, make_inputs(count, kept), {});
    }
    check_loss(loss, make_inputs(count, Kept::kSome), 123.0);
  }
  check_loss(loss, make_inputs(300, Kept::kNone), 0.0);
  for (const double denominator : {0.0, -1.0, double(NAN), double(INFINITY)}) {
    check_bad_denominator(loss, denominator);
  }
  check_order_and_repeat(loss);
  check_alignment(loss);
}

// With clusters and without, and where the largest are of 8 blocks.
inline void check_loss_column(const LossCase& loss, const char* first, const char* second) {
  check_loss_kernels(loss);
  check_loss(loss, make_inputs(70001, Kept::kSome), {});
  emulation::device().largest_group = 8;
  check_loss(loss, make_inputs(70001, Kept::kSome), {});
  // More than one cluster is given.
  check_loss(loss, make_inputs((1 << 17) + 1, Kept::kSome), {});
  emulation::device() = {};
  emulation::device().capability = 80;
  check_loss_kernels(loss);
  emulation::device() = {};
  check_loss_refusals(loss, first, second);
}

}  // namespace rlhf::test
