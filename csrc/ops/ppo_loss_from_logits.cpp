// ppo_loss_from_logits: contract and dispatch.
#include "cpu/ppo_loss_from_logits.h"

#include "cuda/ppo_loss_from_logits.h"
#include "ops.h"
#include "ops/device.h"
#include "ops/estimator.h"
#include "ops/row_checks.h"
#include "ops/token_loss.h"

namespace rlhf::ops {
namespace {

constexpr const char* kOp = "ppo_loss_from_logits";

math::KlEstimator parse_loss_estimator(const std::string& name) {
  const math::KlEstimator estimator = parse_estimator(kOp, name, "kl_estimator");
  if (estimator == math::KlEstimator::kK1) {
    fail(kOp, "kl_estimator",
         "must be 'k2' or 'k3', got 'k1': in the loss, k1's expected gradient is zero; put k1 in "
         "the reward, or pass ref_logits for the exact KL");
  }
  return estimator;
}

void check_upstream(const char* op, const TensorView& value, const char* first_name,
                    const TensorView& first) {
  check_dtype(op, "upstream", value, {result_dtype(first.dtype)});
  check_shape(op, "upstream", value, {});
  check_same_device(op, "upstream", value, first_name, first);
}

double read_scalar(const TensorView& value) {
  return value.dtype == DType::kFloat64 ? *value.as<double>() : *value.as<float>();
}

void check_tensors(const PolicyTensors& t) {
  check_logits(kOp, "logits", t.logits);
  check_row_mask(kOp, "mask", t.mask, t.logits);
  check_row_mask(kOp, "ptx_mask", t.ptx_mask, t.logits);
  check_targets(kOp, t.targets, t.logits, t.mask, t.ptx_mask);
  check_row_values(kOp, "old_logprobs", t.old_logprobs, t.logits);
  check_row_values(kOp, "advantages", t.advantages, t.logits);
  if (t.ref_logprobs) check_row_values(kOp, "ref_logprobs", *t.ref_logprobs, t.logits);
  if (t.ref_logits) check_ref_logits(kOp, *t.ref_logits, t.logits);
  if (t.ref_logprobs && t.ref_logits) {
    fail(kOp, "ref_logits", "and 'ref_logprobs' exclude each other: pass one of them");
  }
}

void check_scalars(const PolicyTensors& t, const PolicyScalars& s) {
  check_temperature(kOp, s.temperature, t.temperatures, t.logits, t.mask, t.ptx_mask);
  check_not_negative(kOp, "cliprange", s.cliprange);
  check_not_negative(kOp, "entropy_coef", s.entropy_coef);
  check_not_negative(kOp, "kl_coef", s.kl_coef);
  check_not_negative(kOp, "ptx_coef", s.ptx_coef);
  if (s.kl_coef != 0 && !t.ref_logprobs && !t.ref_logits) {
    fail(kOp, "kl_coef", "is not 0, so pass 'ref_logprobs' or 'ref_logits'");
  }
  if (s.ptx_coef != 0 && !t.ptx_mask) fail(kOp, "ptx_coef", "is not 0, so pass 'ptx_mask'");
}

void check_outputs(const PolicyTensors& t, bool inplace, const TensorView& loss,
                   const TensorView& stats, const TensorView& rows) {
  check_dtype(kOp, "loss", loss, {result_dtype(t.logits.dtype)});
  check_dtype(kOp, "stats", stats, {result_dtype(t.logits.dtype)});
  check_shape(kOp, "stats", stats, {cpu::kObjectiveStats});
  check_same_device(kOp, "loss", loss, "logits", t.logits);
  check_same_device(kOp, "stats", stats, "logits", t.logits);
  check_saved(kOp, rows, t.logits);
  if (inplace) {
    check_gradient_out(kOp, "logits", t.logits, t.logits);
    if (t.ref_logits && t.ref_logits->data == t.logits.data) {
      fail(kOp, "ref_logits", "must not share memory with 'logits' when inplace=True");
    }
  }
}

// Both columns' PolicyObjective; they differ in how a denominator comes.
template <typename Objective, typename Denominator>
Objective objective_of(const PolicyTensors& t, const PolicyScalars& s, Denominator denominator) {
  return {t.logits,
          t.targets,
          t.old_logprobs,
          t.advantages,
          t.mask,
          t.ref_logprobs,
          t.ref_logits,
          t.ptx_mask,
          t.temperatures,
          denominator(t.denominator),
          denominator(t.ptx_denominator),
          s.temperature,
          s.cliprange,
          s.entropy_coef,
          s.kl_coef,
          s.ptx_coef,
          parse_loss_estimator(s.kl_estimator)};
}

void run(const PolicyTensors& t, const PolicyScalars& s, bool inplace, const TensorView& loss,
         const TensorView& stats, const TensorView& rows, const OptionalView& workspace) {
  check_tensors(t);
  check_scalars(t, s);
  check_denominator(kOp, t.denominator, {"logits", t.logits});
  check_denominator(kOp, t.ptx_denominator, {"logits", t.logits});
  check_outputs(t, inplace, loss, stats, rows);
  [[maybe_unused]] double* sums = check_workspace(kOp, workspace, t.logits, t.logits.shape[0]);
  RLHF_ON_CUDA(t.logits, cuda::ppo_loss_from_logits(
                             objective_of<cuda::PolicyObjective>(t, s, denominator_pointer),
                             inplace, loss, stats, rows, sums));
  const auto read = [](const OptionalView& value) { return read_denominator(kOp, value); };
  cpu::ppo_loss_from_logits(objective_of<cpu::PolicyObjective>(t, s, read), inplace, loss, stats,
                            rows);
}

}  // namespace

void ppo_loss_from_logits(const PolicyTensors& tensors, const PolicyScalars& scalars,
                          const TensorView& loss, const TensorView& stats, const TensorView& rows,
                          const OptionalView& workspace) {
  run(tensors, scalars, false, loss, stats, rows, workspace);
}

void ppo_loss_from_logits_(const PolicyTensors& tensors, const PolicyScalars& scalars,
                           const TensorView& loss, const TensorView& stats, const TensorView& rows,
                           const OptionalView& workspace) {
  run(tensors, scalars, true, loss, stats, rows, workspace);
}

void ppo_loss_from_logits_backward(const TensorView& logits, const OptionalView& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   const TensorView& upstream, const TensorView& grad_logits) {
  const char* op = "ppo_loss_from_logits_backward";
  check_logits(op, "logits", logits);
  if (ref_logits) check_ref_logits(op, *ref_logits, logits);
  check_saved(op, rows, logits);
  check_saved_targets(op, targets, rows, logits);
  check_gradient_out(op, "grad_logits", grad_logits, logits);
  check_upstream(op, upstream, "logits", logits);
  RLHF_ON_CUDA(logits, cuda::ppo_loss_from_logits_backward(logits, ref_logits, targets, rows,
                                                           upstream, grad_logits));
  cpu::ppo_loss_from_logits_backward(logits, ref_logits, targets, rows, read_scalar(upstream),
                                     grad_logits);
}

void ppo_loss_from_logits_scale_(const TensorView& grad, const TensorView& rows,
                                 const TensorView& upstream) {
  const char* op = "ppo_loss_from_logits_scale_";
  check_logits(op, "grad", grad);
  check_gradient_out(op, "grad", grad, grad);
  check_saved(op, rows, grad);
  check_upstream(op, upstream, "grad", grad);
  RLHF_ON_CUDA(grad, cuda::ppo_loss_from_logits_scale(grad, rows, upstream));
  cpu::ppo_loss_from_logits_scale(grad, rows, read_scalar(upstream));
}

}  // namespace rlhf::ops
