// The vocabulary-row kernels of one instruction set, as a table of functions.
//
//   log p_j = (x_j - max) / T - log_sum
//
// Included by files compiled for wider instruction sets: plain structs only, no function bodies.
#pragma once

#include <stdint.h>

namespace rlhf::cpu {

enum RowStorage { kStoreFloat32, kStoreBFloat16, kStoreFloat16, kStoreFloat64, kRowStorages };

// Rows are read in blocks of so many entries.
constexpr int64_t kRowBlock = 2048;

// 2^40: the unit of the integer masses by which entries are kept, see math/sample.h.
constexpr double kRowMassScale = 1099511627776.0;

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

// What a pass knows after one block: the maximum so far and the mass of all blocks so far,
// sum exp((x - max) / T).
struct RowBlock {
  double max;
  double mass;
};

// Rows brought into the scratch of attention are filled up to multiples of this.
constexpr int64_t kAttentionPad = 16;

// What attention does for one head of keys: strides count elements; a `_row` goes from a position
// to the next, a `_head` from a query head to the next of those that share the keys.
struct AttentionArgs {
  const void* query;  // of the first of the query heads
  const void* key;
  const void* value;
  const void* grad_out;
  void* out;
  void* grad_query;
  void* grad_key;
  void* grad_value;
  int64_t query_row, query_head, key_row, value_row;
  int64_t out_row, out_head;  // of grad_out too
  int64_t grad_query_row, grad_query_head, grad_key_row, grad_value_row;
  int64_t heads;       // query heads
  int64_t length;      // L
  int64_t size;        // D, of queries and keys
  int64_t value_size;  // E
  double scale;
  void* scratch;  // attention_scratch() fp32 numbers (fp64 for fp64 inputs), aligned to 64 bytes
};

// Columns of a matrix that lies in panels: row k of panel p begins p * panel + k * kPanelColumns
// numbers in. The last panel's rows are as long, whatever of them is used.
constexpr int64_t kPanelColumns = 64;

// Columns of a matrix that is multiplied, and of a row that is normalised: a multiple of this.
constexpr int64_t kWholeColumns = 16;

// out = start + left right, see row_panels.h; distances count elements.
struct PanelProduct {
  const void* left;  // (i, k) lies i * left_row + (k % 64) * left_step + (k / 64) * left_panel in
  int64_t left_row, left_step, left_panel;
  const void* right;  // in panels, `depth` rows of each
  int64_t right_panel;
  const void* start;  // as `out`, or null: nothing to add to
  int64_t start_row, start_panel;
  void* out;  // (i, j) lies i * out_row + (j / 64) * out_panel + j % 64 in
  int64_t out_row, out_panel;
  int64_t rows, depth, columns;
};

// Depths of a product by pairs, below, are filled up to a multiple of this with zeros, and the left
// side has rows to read up to a multiple of kPairRows, whatever is in them.
constexpr int64_t kPairDepth = 32, kPairRows = 16;

// Products whose factors are rounded to bfloat16, and whose sums are fp32; see row_pairs.h.
struct PairFunctions {
  // To a left side, of rows: (i, k) lies i * row + (k / 64) * panel + k % 64 in, and comes to
  // i * 32 + (k / 32) * 32 * R + k % 32, where R is `rows` filled up to kPairRows.
  void (*round)(const void* from, int64_t row, int64_t panel, int64_t rows, int64_t depth,
                void* to);
  // To a left side that multiplies from its columns, up to 64 of them: (k, j) lies k * row + j in,
  // and comes to j * 32 + (k / 32) * 32 * 64 + k % 32.
  void (*turn)(const void* from, int64_t row, int64_t rows, int64_t columns, void* to);
  // To a right side: as `pack` below, in panels of pairs.
  void (*pack)(const void* matrix, int64_t row, int64_t column, int64_t rows, int64_t columns,
               void* panels);
  // Of the left side (i, k) lies i * left_row + (k / 32) * left_panel + k % 32 in.
  void (*multiply)(const PanelProduct& product);
};

// The multiplication for processors with matrix units (AMX); see row_amx.cpp.
void multiply_pairs_amx(const PanelProduct& product);

struct RowFunctions {
  void (*state)(const RowArgs& args, RowState* state);
  // One logit, exactly as the row kernels read it.
  double (*logit)(const void* row, int64_t index);
  double (*exact_kl)(const RowArgs& args, const RowState& state, const RowState& ref_state);
  // `out` may be the row itself. ref_state is read only with a ref_row.
  void (*gradient)(const RowArgs& args, const RowState& state, const RowState* ref_state,
                   const RowGradient& gradient, void* out);
  void (*scale)(void* row, int64_t vocab, double factor);

  // Element by element, with the formula's two constants; see row_gelu_tanh.h.
  void (*gelu_tanh)(const void* input, int64_t count, double a, double b, void* output);
  void (*gelu_tanh_gradient)(const void* grads, const void* input, int64_t count, double a,
                             double b, void* output);

  void (*gelu_tanh_both)(void* grads, const void* input, int64_t count, double a, double b,
                         void* value);

  // In fp32 and fp64 alone; see row_panels.h and row_layer_norm.h.
  void (*pack)(const void* matrix, int64_t row, int64_t column, int64_t rows, int64_t columns,
               void* panels);
  void (*multiply)(const PanelProduct& product);
  PairFunctions pairs;  // in bfloat16 alone
  double (*normalize)(const void* row, int64_t count, double eps, void* normalized);
  void (*normalize_gradient)(const void* grads, const void* normalized, const void* weight,
                             double inverse_deviation, int64_t count, const void* start, void* out);

  // See row_causal_attention.h.
  int64_t (*attention_scratch)(const AttentionArgs& args);
  void (*attention)(const AttentionArgs& args);
  void (*attention_gradient)(const AttentionArgs& args);
  // In fp32 and fp64 alone; see row_attend_one.h.
  void (*attend_one)(const AttentionArgs& args);

  // What sampling needs; see row_sample.h.
  // The state and its blocks, one for each kRowBlock entries.
  void (*blocks)(const RowArgs& args, RowState* state, RowBlock* blocks);
  // The same of the entries >= threshold alone.
  void (*kept_blocks)(const RowArgs& args, double threshold, RowState* state, RowBlock* blocks);
  // The first entry >= threshold whose running mass exceeds u times the whole.
  int64_t (*draw)(const RowArgs& args, double threshold, const RowBlock* blocks, double u);
  // Maxima of disjoint groups of the row's entries, at most as many as entries; returns how many.
  int64_t (*group_maxima)(const RowArgs& args, double* maxima);
  // Entries >= bound and their integer masses, in the row's order; returns how many.
  int64_t (*collect)(const RowArgs& args, double max, double bound, double* values,
                     uint64_t* masses);
  // The sum of all integer masses, floor(2^40 exp((x - max) / T)).
  uint64_t (*mass)(const RowArgs& args, double max);
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
