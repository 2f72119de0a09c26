// ppo_loss_from_logits on the CPU. One read of a row gives its log-prob, entropy and (with the
// reference's row) KL; the scalars of its gradient then follow in closed form, and the in-place
// form writes the gradient while the row is still in L2. Sums over rows are fp64 and in row order.
// Formula: csrc/math/ppo_loss_from_logits.h.
#include "cpu/ppo_loss_from_logits.h"

#include <vector>

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/token_blocks.h"
#include "math/ppo_loss_from_logits.h"
#include "math/ppo_sum.h"

namespace rlhf::cpu {
namespace {

using math::PpoSum;

constexpr const char* kOp = "ppo_loss_from_logits";

// What a row adds to the sums.
template <typename T>
struct RowTerms {
  math::PpoToken<T> token;
  T k3;
  double logprob;
  double entropy;
  double kl;
};

double count_true(const std::optional<TensorView>& mask) {
  double count = 0;
  for (int64_t row = 0; mask && row < mask->shape[0]; ++row) count += mask->as<bool>()[row];
  return count;
}

template <typename T>
class Objective {
 public:
  Objective(const PolicyObjective& inputs, SavedRow* saved)
      : in_(inputs),
        functions_(row_functions_for(inputs.logits.dtype)),
        logits_(inputs.logits),
        targets_(inputs.targets),
        mask_(inputs.mask),
        ptx_mask_(inputs.ptx_mask),
        temperatures_(inputs.temperatures, inputs.temperature),
        saved_(saved) {
    if (inputs.ref_logits) ref_logits_.emplace(*inputs.ref_logits);
    const double mean = mean_scale(kOp, inputs.denominator, count_true(inputs.mask));
    const double ptx_mean = mean_scale(kOp, inputs.ptx_denominator, count_true(inputs.ptx_mask));
    mean_ = mean;
    ptx_mean_ = ptx_mean;
    weights_ = {mean, -inputs.entropy_coef * mean, inputs.kl_coef * mean,
                -inputs.ptx_coef * ptx_mean};
  }

  void run(bool inplace, const TensorView& loss, const TensorView& stats) {
    std::vector<RowTerms<T>> terms(static_cast<size_t>(logits_.count));
    const Rows* ref = ref_logits_ ? &*ref_logits_ : nullptr;
    parallel_rows(logits_.count, logits_.vocab, [&](int64_t row) {
      saved_[row] = {};
      if (mask_[row] || is_ptx(row)) terms[static_cast<size_t>(row)] = evaluate(row);
      if (inplace) {
        write_gradient(functions_, logits_, ref, row, targets_[row], saved_[row], 1.0, logits_);
      }
    });
    reduce(terms, loss, stats);
  }

 private:
  bool is_ptx(int64_t row) const { return in_.ptx_mask && ptx_mask_[row]; }

  RowTerms<T> evaluate(int64_t row) {
    const RowArgs args = {logits_.row(row), ref_logits_ ? ref_logits_->row(row) : nullptr,
                          logits_.vocab, temperatures_.inverse_of(row)};
    RowState state;
    functions_.state(args, &state);
    SavedRow& saved = saved_[row];
    saved.max = state.max;
    saved.log_sum = state.log_sum;
    saved.entropy = state.entropy;
    saved.inverse_temperature = args.inverse_temperature;
    RowTerms<T> terms = {};
    terms.logprob = logprob_of(functions_, args, state, targets_[row]);
    terms.entropy = state.entropy;
    math::RowCoefficients k;
    if (mask_[row]) add_policy_terms(row, args, &terms, &k);
    if (is_ptx(row)) k.add_logprob(weights_.ptx);
    saved.a = k.a;
    saved.b = k.b;
    saved.c = k.c;
    saved.d = k.d;
    return terms;
  }

  void add_policy_terms(int64_t row, const RowArgs& args, RowTerms<T>* terms,
                        math::RowCoefficients* k) {
    const T logprob = static_cast<T>(terms->logprob);
    const T old = in_.old_logprobs.as<T>()[row];
    terms->token = math::ppo_token<T>(logprob, old, in_.advantages.as<T>()[row],
                                      static_cast<T>(1.0 - in_.cliprange),
                                      static_cast<T>(1.0 + in_.cliprange));
    terms->k3 = math::token_kl<T>(math::KlEstimator::kK3, old, logprob);
    k->add_logprob(weights_.policy * terms->token.dlogprob);
    k->add_entropy(weights_.entropy, terms->entropy);
    if (in_.ref_logits) {
      RowState ref_state;
      functions_.state({args.ref_row, nullptr, args.vocab, args.inverse_temperature}, &ref_state);
      saved_[row].ref_max = ref_state.max;
      saved_[row].ref_log_sum = ref_state.log_sum;
      terms->kl = functions_.exact_kl(args, state_of(saved_[row]), ref_state);
      k->add_exact_kl(weights_.kl, terms->kl);
    } else if (in_.ref_logprobs) {
      const T ref = in_.ref_logprobs->as<T>()[row];
      terms->kl = math::token_kl<T>(in_.estimator, logprob, ref);
      k->add_logprob(weights_.kl * math::token_kl_gradient<T>(in_.estimator, logprob, ref));
    }
  }

  void reduce(const std::vector<RowTerms<T>>& terms, const TensorView& loss,
              const TensorView& stats) const {
    PpoSum sum;
    double entropy = 0, kl = 0, ptx = 0, ptx_entropy = 0;
    for (int64_t row = 0; row < logits_.count; ++row) {
      const RowTerms<T>& term = terms[static_cast<size_t>(row)];
      if (mask_[row]) {
        sum.add(term.token, term.k3);
        entropy += term.entropy;
        kl += term.kl;
      }
      if (is_ptx(row)) {
        ptx -= term.logprob;
        ptx_entropy += term.entropy;
      }
    }
    const math::Moments ratio = sum.ratios.moments();
    double total = sum.loss * mean_;
    if (weights_.entropy != 0) total += weights_.entropy * entropy;
    if (weights_.kl != 0) total += weights_.kl * kl;
    if (weights_.ptx != 0) total -= weights_.ptx * ptx;
    write_values<T>(loss, {total});
    write_values<T>(stats, {sum.loss * mean_, 0.5 * sum.logratio_squared * mean_, sum.k3 * mean_,
                            sum.clipped * mean_, ratio.sum() * mean_, ratio.m2 * mean_,
                            sum.ratio_max, sum.ratio_error, entropy * mean_, kl * mean_,
                            ptx * ptx_mean_, ptx_entropy * ptx_mean_});
  }

  const PolicyObjective& in_;
  const RowFunctions& functions_;
  Rows logits_;
  std::optional<Rows> ref_logits_;
  Targets targets_;
  RowMask mask_;
  RowMask ptx_mask_;
  Temperatures temperatures_;
  SavedRow* saved_;
  double mean_;
  double ptx_mean_;
  math::ObjectiveWeights weights_;
};

}  // namespace

void ppo_loss_from_logits(const PolicyObjective& objective, bool inplace, const TensorView& loss,
                          const TensorView& stats, const TensorView& rows) {
  SavedRow* saved = rows.as<SavedRow>();
  if (objective.logits.dtype == DType::kFloat64) {
    Objective<double>(objective, saved).run(inplace, loss, stats);
  } else {
    Objective<float>(objective, saved).run(inplace, loss, stats);
  }
}

void ppo_loss_from_logits_backward(const TensorView& logits,
                                   const std::optional<TensorView>& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   double upstream, const TensorView& grad_logits) {
  const RowFunctions& functions = row_functions_for(logits.dtype);
  const Rows in(logits), out(grad_logits);
  std::optional<Rows> ref;
  if (ref_logits) ref.emplace(*ref_logits);
  const Targets ids(targets);
  const SavedRow* saved = rows.as<SavedRow>();
  parallel_rows(in.count, in.vocab, [&](int64_t row) {
    write_gradient(functions, in, ref ? &*ref : nullptr, row, ids[row], saved[row], upstream, out);
  });
}

void ppo_loss_from_logits_scale(const TensorView& grad, const TensorView& rows, double upstream) {
  if (upstream == 1.0) return;
  const RowFunctions& functions = row_functions_for(grad.dtype);
  const Rows out(grad);
  const SavedRow* saved = rows.as<SavedRow>();
  parallel_rows(out.count, out.vocab, [&](int64_t row) {
    if (saved[row].inverse_temperature != 0.0) functions.scale(out.row(row), out.vocab, upstream);
  });
}

}  // namespace rlhf::cpu
