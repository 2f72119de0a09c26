// Runs under the sanitizers: sizes around every vector width.
#include "check.h"
#include "cpu/rows.h"
#include "isa.h"
#include "ops.h"

using rlhf::cpu::kSavedColumns;
using rlhf::test::view_of;

namespace {

// p uniform, q doubled on the first entry: KL = log((V + 1) / V) - log(2) / V.
void check_size(int64_t vocab) {
  std::vector<float> x(vocab, 0.0f), y(vocab, 0.0f), kl(1), one(1, 1.0f), grad(vocab);
  std::vector<double> rows(kSavedColumns);
  y[0] = std::log(2.0f);
  const auto logits = view_of(x.data(), {1, vocab}), ref = view_of(y.data(), {1, vocab});
  const auto saved = view_of(rows.data(), {1, kSavedColumns});
  rlhf::ops::exact_kl(logits, ref, {}, {}, 1.0, view_of(kl), saved);
  const double size = static_cast<double>(vocab);
  CHECK_NEAR(kl[0], std::log((size + 1) / size) - std::log(2.0) / size, 1e-6);
  rlhf::ops::exact_kl_backward(view_of(one), logits, ref, view_of(kl), saved,
                               view_of(grad.data(), {1, vocab}));
  double sum = 0;
  for (float value : grad) sum += value;
  CHECK_NEAR(sum, 0.0, 1e-6);
}

}  // namespace

int main() {
  rlhf::test::on_every_isa([] {
    for (int64_t vocab : {1, 2, 7, 8, 9, 15, 16, 17, 33, 2047, 2048, 2049}) check_size(vocab);
  });
  return 0;
}
