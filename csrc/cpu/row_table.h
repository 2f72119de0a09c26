// The vocabulary-row kernels of one instruction set, as a table of functions.
//
//   log p_j = (x_j - max) / T - log_sum
//
// Included by files compiled for wider instruction sets: plain structs only, no function bodies.
#pragma once

#include <stdint.h>

namespace rlhf::cpu {

enum RowStorage { kStoreFloat32, kStoreBFloat16, kStoreFloat16, kStoreFloat64, kRowStorages };

// What one pass over a row yields.
struct RowState {
  double max;      // of the logits, before the temperature
  double log_sum;  // log sum_j exp((x_j - max) / T)
  double entropy;  // nats
};

// d loss / d x_j = (p_j (a + b log p_j + c (log p_j - log q_j)) + d [j = target]) / T
struct RowGradient {
  double a;
  double b;
  double c;
  double d;
  int64_t target;  // -1: none
};

struct RowArgs {
  const void* row;
  const void* ref_row;  // the reference's logits, or null
  int64_t vocab;
  double inverse_temperature;
};

struct RowFunctions {
  void (*state)(const RowArgs& args, RowState* state);
  // One logit, exactly as the row kernels read it.
  double (*logit)(const void* row, int64_t index);
  double (*exact_kl)(const RowArgs& args, const RowState& state, const RowState& ref_state);
  // `out` may be the row itself. ref_state is read only with a ref_row.
  void (*gradient)(const RowArgs& args, const RowState& state, const RowState* ref_state,
                   const RowGradient& gradient, void* out);
  void (*scale)(void* row, int64_t vocab, double factor);
};

struct RowTable {
  const char* isa;
  RowFunctions functions[kRowStorages];  // indexed by RowStorage
};

extern const RowTable kRowTableBaseline;
extern const RowTable kRowTableAvx2;
extern const RowTable kRowTableAvx512;
extern const RowTable kRowTableAvx512Bf16;

}  // namespace rlhf::cpu
