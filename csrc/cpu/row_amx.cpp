// Products of row_pairs.h by matrix units (AMX): 16 x 16 sums of 32 products in one instruction.
// This file alone is compiled for them.
#include <stdint.h>

#include "cpu/row_table.h"

#if defined(__AMX_BF16__)
#include <immintrin.h>

namespace rlhf::cpu {
namespace {

constexpr int64_t kTile = 16;  // rows of a tile, and columns of sums
static_assert(kTile == kPairRows, "a left tile is read whole");

struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "as the processor reads it");

const TileConfig kConfig = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Up to 32 x 32 sums, or 16 x 64: where their rows are, and how many of them there are.
struct Block {
  const uint16_t* left;
  int64_t left_row, left_step;  // the step is one of the depth, by 32
  const uint16_t* right;        // of a panel, from the first column on
  int64_t depth;
  const float* start;
  int64_t start_row;
  float* out;
  int64_t out_row;
  int64_t rows, columns;
};

// Sums that do not fill their tiles begin and end here.
struct Aside {
  alignas(64) float numbers[4 * kTile * kTile];
};

// The same block with whole tiles, 64 columns wide; what it starts with is copied there.
inline Block put_aside(const Block& b, Aside* aside) {
  Block whole = b;
  whole.out = aside->numbers;
  whole.out_row = b.rows > kTile ? 2 * kTile : 4 * kTile;
  if (b.start != nullptr) {
    for (int64_t i = 0; i < b.rows; ++i) {
      __builtin_memcpy(whole.out + i * whole.out_row, b.start + i * b.start_row,
                       static_cast<size_t>(b.columns) * sizeof(float));
    }
    whole.start = whole.out;
    whole.start_row = whole.out_row;
  }
  return whole;
}

inline void bring_back(const Block& b, const Block& whole) {
  for (int64_t i = 0; i < b.rows; ++i) {
    __builtin_memcpy(b.out + i * b.out_row, whole.out + i * whole.out_row,
                     static_cast<size_t>(b.columns) * sizeof(float));
  }
}

// Tiles are named by numbers in the instructions, hence the macros.
#define RLHF_BEGIN(tile, i, j)                                                               \
  do {                                                                                       \
    if (b.start == nullptr) {                                                                \
      _tile_zero(tile);                                                                      \
    } else {                                                                                 \
      _tile_loadd(tile, b.start + (i) * kTile * b.start_row + (j) * kTile, b.start_row * 4); \
    }                                                                                        \
  } while (false)
#define RLHF_END(tile, i, j) \
  _tile_stored(tile, b.out + (i) * kTile * b.out_row + (j) * kTile, b.out_row * 4)

// Past a panel's end this is no error.
__attribute__((always_inline)) inline void prefetch(const uint16_t* from, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) +
                                                   static_cast<uintptr_t>(ahead) * 2));
}

constexpr int64_t kRightBytes = 4 * kPanelColumns;     // from a pair of the depth to the next
constexpr int64_t kStep = kPairDepth * kPanelColumns;  // numbers of a panel that a step takes

// 32 rows by 32 columns.
__attribute__((noinline)) void multiply_square(const Block& b) {
  RLHF_BEGIN(0, 0, 0);
  RLHF_BEGIN(1, 0, 1);
  RLHF_BEGIN(2, 1, 0);
  RLHF_BEGIN(3, 1, 1);
  const uint16_t *left = b.left, *right = b.right;
  for (int64_t k = 0; k < b.depth; k += kPairDepth, left += b.left_step, right += kStep) {
    for (int64_t row = 0; row < kTile; ++row) {
      prefetch(right, kStep + row * 2 * kPanelColumns);
      prefetch(right, kStep + row * 2 * kPanelColumns + 2 * kTile);
    }
    _tile_loadd(4, left, b.left_row * 2);
    _tile_loadd(6, right, kRightBytes);
    _tile_loadd(7, right + 2 * kTile, kRightBytes);
    _tile_loadd(5, left + kTile * b.left_row, b.left_row * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  RLHF_END(0, 0, 0);
  RLHF_END(1, 0, 1);
  RLHF_END(2, 1, 0);
  RLHF_END(3, 1, 1);
}

// 16 rows by 64 columns. The panel's next steps are asked for: with few rows they come from afar.
__attribute__((noinline)) void multiply_wide(const Block& b) {
  constexpr int64_t kAhead = 2 * kStep;
  RLHF_BEGIN(0, 0, 0);
  RLHF_BEGIN(1, 0, 1);
  RLHF_BEGIN(2, 0, 2);
  RLHF_BEGIN(3, 0, 3);
  const uint16_t *left = b.left, *right = b.right;
  for (int64_t k = 0; k < b.depth; k += kPairDepth, left += b.left_step, right += kStep) {
    for (int64_t ahead = kAhead; ahead < kAhead + kStep; ahead += 32) prefetch(right, ahead);
    _tile_loadd(4, left, b.left_row * 2);
    _tile_loadd(5, right, kRightBytes);
    _tile_loadd(6, right + 2 * kTile, kRightBytes);
    _tile_loadd(7, right + 4 * kTile, kRightBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(5, right + 6 * kTile, kRightBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 4, 5);
  }
  RLHF_END(0, 0, 0);
  RLHF_END(1, 0, 1);
  RLHF_END(2, 0, 2);
  RLHF_END(3, 0, 3);
}

#undef RLHF_BEGIN
#undef RLHF_END

inline void multiply_block(const Block& b, Aside* aside) {
  const bool square = b.rows > kTile;
  const auto multiply = square ? multiply_square : multiply_wide;
  if (b.rows == (square ? 2 * kTile : kTile) && b.columns == (square ? 2 * kTile : 4 * kTile)) {
    return multiply(b);
  }
  const Block whole = put_aside(b, aside);
  multiply(whole);
  bring_back(b, whole);
}

}  // namespace

void multiply_pairs_amx(const PanelProduct& p) {
  Aside aside;
  _tile_loadconfig(&kConfig);
  for (int64_t j = 0; j < p.columns; j += kPanelColumns) {
    const int64_t panel = j / kPanelColumns;
    const int64_t columns = p.columns - j < kPanelColumns ? p.columns - j : kPanelColumns;
    const float* start = static_cast<const float*>(p.start);
    for (int64_t i = 0; i < p.rows; i += 2 * kTile) {
      const int64_t rows = p.rows - i < 2 * kTile ? p.rows - i : 2 * kTile;
      const int64_t step = rows > kTile ? 2 * kTile : 4 * kTile;
      for (int64_t n = 0; n < columns; n += step) {
        Block b;
        b.left = static_cast<const uint16_t*>(p.left) + i * p.left_row;
        b.left_row = p.left_row;
        b.left_step = p.left_panel;
        b.right = static_cast<const uint16_t*>(p.right) + panel * p.right_panel + 2 * n;
        b.depth = p.depth;
        b.start = start ? start + i * p.start_row + panel * p.start_panel + n : nullptr;
        b.start_row = p.start_row;
        b.out = static_cast<float*>(p.out) + i * p.out_row + panel * p.out_panel + n;
        b.out_row = p.out_row;
        b.rows = rows;
        b.columns = columns - n < step ? columns - n : step;
        multiply_block(b, &aside);
      }
    }
  }
  _tile_release();
}

}  // namespace rlhf::cpu
#endif
