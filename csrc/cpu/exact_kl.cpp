// exact_kl on the CPU. One read of each row from memory (the second pass finds them in L2);
// fp32 lanes, fp64 across blocks. Formula: csrc/math/exact_kl.h.
#include "cpu/exact_kl.h"

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "dispatch.h"
#include "math/exact_kl.h"

namespace rlhf::cpu {
namespace {

template <typename C>
void forward(const Rows& logits, const Rows& ref_logits, const RowMask& mask,
             const Temperatures& temperatures, const RowFunctions& functions, C* kl,
             SavedRow* saved) {
  parallel_rows(logits.count, 2 * logits.vocab, [&](int64_t row) {
    saved[row] = {};
    kl[row] = C(0);
    if (!mask[row]) return;
    const RowArgs args = {logits.row(row), ref_logits.row(row), logits.vocab,
                          temperatures.inverse_of(row)};
    RowState state, ref_state;
    functions.state(args, &state);
    functions.state({args.ref_row, nullptr, args.vocab, args.inverse_temperature}, &ref_state);
    saved[row].max = state.max;
    saved[row].log_sum = state.log_sum;
    saved[row].ref_max = ref_state.max;
    saved[row].ref_log_sum = ref_state.log_sum;
    saved[row].inverse_temperature = args.inverse_temperature;
    kl[row] = static_cast<C>(functions.exact_kl(args, state, ref_state));
  });
}

template <typename C>
void backward(const C* grad_kl, const C* kl, const Rows& logits, const Rows& ref_logits,
              const SavedRow* saved, const RowFunctions& functions, const Rows& out) {
  parallel_rows(logits.count, 2 * logits.vocab, [&](int64_t row) {
    const math::RowCoefficients k = math::exact_kl_coefficients(kl[row], grad_kl[row]);
    SavedRow scaled = saved[row];
    scaled.a = k.a;
    scaled.c = k.c;
    write_gradient(functions, logits, &ref_logits, row, -1, scaled, 1.0, out);
  });
}

}  // namespace

void exact_kl(const TensorView& logits, const TensorView& ref_logits,
              const std::optional<TensorView>& mask, const std::optional<TensorView>& temperatures,
              double temperature, const TensorView& kl, const TensorView& rows) {
  const RowFunctions& functions = row_functions_for(logits.dtype);
  const Temperatures scales(temperatures, temperature);
  SavedRow* saved = rows.as<SavedRow>();
  if (logits.dtype == DType::kFloat64) {
    forward(Rows(logits), Rows(ref_logits), RowMask(mask), scales, functions, kl.as<double>(),
            saved);
  } else {
    forward(Rows(logits), Rows(ref_logits), RowMask(mask), scales, functions, kl.as<float>(),
            saved);
  }
}

void exact_kl_backward(const TensorView& grad_kl, const TensorView& logits,
                       const TensorView& ref_logits, const TensorView& kl, const TensorView& rows,
                       const TensorView& grad_logits) {
  const RowFunctions& functions = row_functions_for(logits.dtype);
  const SavedRow* saved = rows.as<SavedRow>();
  if (logits.dtype == DType::kFloat64) {
    backward(grad_kl.as<double>(), kl.as<double>(), Rows(logits), Rows(ref_logits), saved,
             functions, Rows(grad_logits));
  } else {
    backward(grad_kl.as<float>(), kl.as<float>(), Rows(logits), Rows(ref_logits), saved, functions,
             Rows(grad_logits));
  }
}

}  // namespace rlhf::cpu
