// Products of small matrices in memory close by: C[i, :] = sum_k A[i, k] B[k, :], a few rows and a
// few vectors at a time in registers. Every sum runs over k in order.
//
// Included by row_body.h inside an anonymous namespace; see there.

constexpr int kTileRows = 6;  // with four vectors of 16 lanes, 24 of 32 registers hold sums

// A as it lies in memory: element (i, k) at data[i * row + k * step].
template <typename T>
struct LeftMatrix {
  const T* data;
  int64_t row;
  int64_t step;
};
// B or C: row k begins at data + k * row, and is whole vectors long.
template <typename T>
struct RowMatrix {
  T* data;
  int64_t row;
};

template <typename X, int kRows, int kVectors, typename T>
__attribute__((always_inline)) inline void add_tile(const LeftMatrix<T>& a,
                                                    const RowMatrix<const T>& b, int64_t steps,
                                                    bool add, const RowMatrix<T>& c) {
  typename X::V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      sums[i][n] = add ? X::load(c.data + i * c.row + n * X::kWidth) : X::set(0.0);
    }
  }
  for (int64_t k = 0; k < steps; ++k) {
    typename X::V right[kVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) right[n] = X::load(b.data + k * b.row + n * X::kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename X::V left = X::set(a.data[i * a.row + k * a.step]);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) sums[i][n] = left * right[n] + sums[i][n];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) X::store(c.data + i * c.row + n * X::kWidth, sums[i][n]);
  }
}

template <typename X, int kRows, typename T>
__attribute__((always_inline)) inline void add_rows(const LeftMatrix<T>& a, RowMatrix<const T> b,
                                                    int64_t steps, int64_t vectors, bool add,
                                                    RowMatrix<T> c) {
  constexpr int kMost = X::kWidth == 16 ? 4 : 2;  // registers for sums
  for (; vectors >= kMost; vectors -= kMost) {
    add_tile<X, kRows, kMost>(a, b, steps, add, c);
    b.data += kMost * X::kWidth;
    c.data += kMost * X::kWidth;
  }
  if (kMost > 2 && vectors >= 2) {
    add_tile<X, kRows, 2>(a, b, steps, add, c);
    b.data += 2 * X::kWidth;
    c.data += 2 * X::kWidth;
    vectors -= 2;
  }
  if (vectors > 0) add_tile<X, kRows, 1>(a, b, steps, add, c);
}

// C = A B, or C += A B, for at most kTileRows rows of C and so many vectors of its columns.
template <typename X, typename T>
__attribute__((noinline)) void add_product(const LeftMatrix<T>& a, const RowMatrix<const T>& b,
                                           int64_t steps, int64_t rows, int64_t vectors, bool add,
                                           const RowMatrix<T>& c) {
  switch (rows) {
    case 1:
      return add_rows<X, 1>(a, b, steps, vectors, add, c);
    case 2:
      return add_rows<X, 2>(a, b, steps, vectors, add, c);
    case 3:
      return add_rows<X, 3>(a, b, steps, vectors, add, c);
    case 4:
      return add_rows<X, 4>(a, b, steps, vectors, add, c);
    case 5:
      return add_rows<X, 5>(a, b, steps, vectors, add, c);
    default:
      return add_rows<X, kTileRows>(a, b, steps, vectors, add, c);
  }
}

// Lanes of two vectors of four in turn: of their first halves, or of their second.
#if defined(__clang__)
#define RLHF_FIRST_HALVES(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define RLHF_SECOND_HALVES(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define RLHF_FIRST_HALVES(a, b) __builtin_shuffle(a, b, Places{0, 4, 1, 5})
#define RLHF_SECOND_HALVES(a, b) __builtin_shuffle(a, b, Places{2, 6, 3, 7})
#endif

template <int kBytes>
struct IntegerOf {
  using Type = int32_t;
};
template <>
struct IntegerOf<8> {
  using Type = int64_t;
};

// [rows, columns] to [columns, rows], both multiples of four; `from_row` and `across` lie from row
// to row of the one and of the other.
template <typename T>
void turn(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t across) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  typedef typename IntegerOf<sizeof(T)>::Type Places __attribute__((vector_size(4 * sizeof(T))));
  for (int64_t j = 0; j < rows; j += 4) {
    for (int64_t d = 0; d < columns; d += 4) {
      Four row[4];
      for (int i = 0; i < 4; ++i) {
        __builtin_memcpy(&row[i], from + (j + i) * from_row + d, sizeof(Four));
      }
      const Four a = RLHF_FIRST_HALVES(row[0], row[2]), b = RLHF_FIRST_HALVES(row[1], row[3]);
      const Four c = RLHF_SECOND_HALVES(row[0], row[2]), e = RLHF_SECOND_HALVES(row[1], row[3]);
      row[0] = RLHF_FIRST_HALVES(a, b);
      row[1] = RLHF_SECOND_HALVES(a, b);
      row[2] = RLHF_FIRST_HALVES(c, e);
      row[3] = RLHF_SECOND_HALVES(c, e);
      for (int i = 0; i < 4; ++i) {
        __builtin_memcpy(to + (d + i) * across + j, &row[i], sizeof(Four));
      }
    }
  }
}

#undef RLHF_FIRST_HALVES
#undef RLHF_SECOND_HALVES
