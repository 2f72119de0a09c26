// Choice of the instruction set, and the row helpers that every row op shares.
#include "cpu/rows.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(RLHF_KERNELS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rlhf::cpu {
namespace {

#if defined(RLHF_KERNELS_AMX)
// Whether the processor has matrix units for bfloat16, and Linux lets this process use them.
bool may_use_amx() {
  static const bool may = [] {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;       // leaf 7, EDX
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile);
    return has && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return may;
}

// Its rows are those of AVX-512 with bfloat16; only products by pairs are its own.
const RowTable& amx_table() {
  static const RowTable table = [] {
    RowTable made = kRowTableAvx512Bf16;
    made.isa = "amx";
    made.functions[kStoreBFloat16].pairs.multiply = multiply_pairs_amx;
    return made;
  }();
  return table;
}
#endif

bool machine_has(std::string_view isa) {
#if defined(RLHF_KERNELS_AMX)
  if (isa == "amx") return machine_has("avx512bf16") && may_use_amx();
#endif
#if defined(__x86_64__)
  if (isa == "avx512bf16") {
    return machine_has("avx512") && __builtin_cpu_supports("avx512bf16");
  }
  if (isa == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  if (isa == "avx2") {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
#endif
  return isa == "baseline";
}

const RowTable* table_named(std::string_view isa) {
#if defined(RLHF_KERNELS_AMX)
  if (isa == "amx") return &amx_table();
#endif
#if defined(__x86_64__)
  if (isa == "avx512bf16") return &kRowTableAvx512Bf16;
  if (isa == "avx512") return &kRowTableAvx512;
  if (isa == "avx2") return &kRowTableAvx2;
#endif
  return isa == "baseline" ? &kRowTableBaseline : nullptr;
}

const RowTable& best_table() {
  static const RowTable* best = [] {
    for (const char* isa : {"amx", "avx512bf16", "avx512", "avx2"}) {
      if (machine_has(isa)) return table_named(isa);
    }
    return &kRowTableBaseline;
  }();
  return *best;
}

// Read at every call, so that a test can compare the variants inside one process.
const RowTable& current_table() {
  const char* wanted = std::getenv("RLHF_KERNELS_ISA");
  if (wanted == nullptr || *wanted == '\0') return best_table();
  const RowTable* table = table_named(wanted);
  if (table == nullptr || !machine_has(wanted)) {
    throw std::invalid_argument("RLHF_KERNELS_ISA=" + std::string(wanted) +
                                (table ? " is not supported by this machine" : " is unknown") +
                                "; use amx, avx512bf16, avx512, avx2 or baseline, or unset it");
  }
  return *table;
}

}  // namespace

int storage_size(DType dtype) {
  if (dtype == DType::kFloat64) return 8;
  return dtype == DType::kFloat32 ? 4 : 2;
}

const RowFunctions& row_functions_for(DType dtype) {
  const RowTable& table = current_table();
  switch (dtype) {
    case DType::kBFloat16:
      return table.functions[kStoreBFloat16];
    case DType::kFloat16:
      return table.functions[kStoreFloat16];
    case DType::kFloat64:
      return kRowTableBaseline.functions[kStoreFloat64];
    default:
      return table.functions[kStoreFloat32];
  }
}

const char* current_isa() { return current_table().isa; }

Rows::Rows(const TensorView& view)
    : base(view.as<char>()),
      count(view.shape[0]),
      vocab(view.shape[1]),
      stride_bytes(view.strides[0] * storage_size(view.dtype)),
      row_bytes(view.shape[1] * storage_size(view.dtype)) {}

void Rows::zero(int64_t index) const { std::memset(row(index), 0, static_cast<size_t>(row_bytes)); }

void write_gradient(const RowFunctions& functions, const Rows& logits, const Rows* ref_logits,
                    int64_t row, int64_t target, const SavedRow& saved, double scale,
                    const Rows& out) {
  if (saved.inverse_temperature == 0.0) return out.zero(row);
  const RowGradient gradient = {saved.a * scale, saved.b * scale, saved.c * scale, saved.d * scale,
                                target};
  if (gradient.a == 0 && gradient.b == 0 && gradient.c == 0 && gradient.d == 0) {
    return out.zero(row);
  }
  const RowArgs args = {logits.row(row), ref_logits ? ref_logits->row(row) : nullptr, logits.vocab,
                        saved.inverse_temperature};
  const RowState ref_state = ref_state_of(saved);
  functions.gradient(args, state_of(saved), ref_logits ? &ref_state : nullptr, gradient,
                     out.row(row));
}

}  // namespace rlhf::cpu
