// Reading and writing the vectors of a row: ends of rows, pairs, and memory ahead of time.
//
// Included by row_body.h inside an anonymous namespace; see there.

// How far ahead memory is asked for: a third of a 48 KB first-level cache, four blocks of bf16.
constexpr uintptr_t kPrefetchBytes = 16384;

// A full vector, or the last `left` elements padded with -inf, which adds nothing to any sum.
template <typename X, typename S>
inline typename X::V load_some(const S* pointer, int64_t left) {
  if (left >= X::kWidth) return X::load(pointer);
  S padded[X::kWidth];
  for (int lane = 0; lane < X::kWidth; ++lane) padded[lane] = X::minus_infinity(pointer);
  for (int64_t lane = 0; lane < left; ++lane) padded[lane] = pointer[lane];
  return X::load(padded);
}

template <typename X, typename S>
inline void store_some(S* pointer, typename X::V value, int64_t left) {
  if (left >= X::kWidth) return X::store(pointer, value);
  S padded[X::kWidth];
  X::store(padded, value);
  for (int64_t lane = 0; lane < left; ++lane) pointer[lane] = padded[lane];
}

// Ask for what comes after the next block while this one computes: otherwise memory and arithmetic
// take turns. An address past the end is never an error for a prefetch.
template <int kElements, typename S>
inline void prefetch_ahead(const S* current) {
  const uintptr_t next = reinterpret_cast<uintptr_t>(current) + kPrefetchBytes;
  for (uintptr_t offset = 0; offset < kElements * sizeof(S); offset += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(next + offset));
  }
}

// Ask for one line, so many elements on.
template <typename T>
__attribute__((always_inline)) inline void prefetch(const T* from, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) +
                                                   static_cast<uintptr_t>(ahead) * sizeof(T)));
}

// Two full vectors for a sum. bf16 is split into even and odd entries, one shift and one mask
// instead of two conversions: the lanes' order depends on the element type and the position alone.
template <typename X, typename S>
inline void load_pair(const S* pointer, typename X::V* first, typename X::V* second) {
  if constexpr (kIsBf16<S>) {
    X::load_even_odd(pointer, first, second);
  } else {
    *first = X::load(pointer);
    *second = X::load(pointer + X::kWidth);
  }
}

// Which entries a pass counts.
template <typename X>
struct EveryEntry {
  static constexpr bool kAll = true;
  double threshold;
  typename X::V operator()(typename X::V x) const { return x; }
};
template <typename X>
struct EntriesFrom {
  static constexpr bool kAll = false;
  double threshold;
  typename X::V operator()(typename X::V x) const {
    return X::select_less(x, X::set(threshold), X::set(-HUGE_VAL), x);
  }
};

template <typename X, typename S>
double row_logit(const void* row, int64_t index) {
  return X::scalar(static_cast<const S*>(row) + index);
}

template <typename X, typename S>
void row_scale(void* row, int64_t vocab, double factor_value) {
  S* x = static_cast<S*>(row);
  const typename X::V factor = X::set(factor_value);
  for (int64_t i = 0; i < vocab; i += X::kWidth) {
    store_some<X>(x + i, load_some<X>(x + i, vocab - i) * factor, vocab - i);
  }
}
