// Threads over independent items. Work is cut by position only, and reductions are never done
// here, so every result is bitwise the same for any number of threads.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rlhf::cpu {

// Below this many elements a parallel region costs more than it saves.
constexpr int64_t kParallelGrain = 32768;

// body(begin, end) over [0, count) in fixed pieces of `piece` items.
// The body must not throw: collect the error and throw after the loop.
template <typename Body>
void parallel_ranges(int64_t count, int64_t piece, int64_t total_elements, const Body& body) {
  const int64_t pieces = (count + piece - 1) / piece;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) if (pieces > 1 && total_elements > kParallelGrain)
#endif
  for (int64_t index = 0; index < pieces; ++index) {
    const int64_t begin = index * piece;
    const int64_t end = begin + piece < count ? begin + piece : count;
    body(begin, end);
  }
  (void)total_elements;
}

// body(row) for rows that cost `row_elements` each; short rows are handed out several at a time.
template <typename Body>
void parallel_rows(int64_t rows, int64_t row_elements, const Body& body) {
  const int64_t piece = row_elements < 16384 ? 16384 / (row_elements + 1) + 1 : 1;
  parallel_ranges(rows, piece, rows * row_elements, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace rlhf::cpu
