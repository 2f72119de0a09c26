// ppo_loss and value_loss have one signature; so have their tests.
#pragma once

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

template <typename T>
LossResult<T> run_loss(const LossCase& loss, const LossInputs& in, bool cuda,
                       std::optional<double> denominator = {}) {
  const auto count = static_cast<int64_t>(in.mask.size());
  std::vector<T> first(in.first.begin(), in.first.end());
  std::vector<T> second(in.second.begin(), in.second.end());
  std::vector<T> third(in.third.begin(), in.third.end());
  std::vector<char> mask = in.mask;
  LossResult<T> out;
  out.sums.assign(1 + loss.stats, T(-1));
  out.grad.assign(in.mask.size(), T(-1));
  const auto place = [&](const TensorView& view) { return cuda ? on_cuda(view) : view; };
  double divisor = denominator.value_or(0);
  ops::OptionalView denominator_view, workspace_view;
  if (denominator) denominator_view = place(view_of(&divisor, {}));
  const TensorView first_view = place(view_of(first));
  std::vector<double> workspace = make_workspace(loss.name, first_view, count);
  if (cuda) workspace_view = place(view_of(workspace));
  loss.op(first_view, place(view_of(second)), place(view_of(third)),
          place(mask_view(mask, {count})), loss.cliprange, denominator_view,
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

inline void check_loss_column(const LossCase& loss, const char* first, const char* second) {
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
  check_loss_refusals(loss, first, second);
}

}  // namespace rlhf::test
