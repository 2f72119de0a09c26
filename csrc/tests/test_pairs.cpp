// Products of numbers rounded to bfloat16: where sides lie, and sums against a plain loop in
// double.
#include <algorithm>
#include <iterator>

#include "check.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "isa.h"
#include "numbers.h"

using namespace rlhf;
using namespace rlhf::cpu;
using rlhf::test::make;

namespace {

using Bits = std::vector<uint16_t>;

constexpr uint16_t kJunk = 0x7fc1;  // a NaN
constexpr float kGuard = -7;

const PairFunctions& pairs() { return row_functions_for(DType::kBFloat16).pairs; }

int64_t whole(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

float widened(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

// The nearest number of 8 bits, an even one in the middle of two.
float nearest(float x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  const double fraction = std::frexp(static_cast<double>(x), &exponent);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
  return std::fabs(rounded) >= std::ldexp(1.0, 128) ? std::copysign(HUGE_VALF, x)
                                                    : static_cast<float>(rounded);
}

bool is_nearest(uint16_t bits, float x) {
  const float found = widened(bits);
  return std::isnan(x) ? std::isnan(found) : float_to_bits(found) == float_to_bits(nearest(x));
}

// What is hard to round, and on: numbers of all signs and some sizes. Not a subnormal, which some
// processors make 0.
std::vector<float> make_hard(int64_t count) {
  std::vector<float> made = make<float>(count, 3, 5);
  const uint32_t hard[] = {
      0x3f808000, 0x3f818000, 0xbf808000, 0xbf818000,  // middles, to the even one
      0x3f808001, 0x3f807fff, 0x3f817fff, 0x3f818001,  // beside them
      0x3fffffff, 0x7f7f7fff, 0x7f7f8000, 0xff7fffff,  // carries, up to infinity
      0x7f800000, 0xff800000, 0x7f800001, 0xff800001,  // infinities, and NaN of a last bit
      0x7fffffff, 0xffffffff, 0x80000000, 0x00800000,
  };
  for (size_t i = 0; i < made.size() && i < std::size(hard); ++i) made[i] = bits_to_float(hard[i]);
  return made;
}

// A number is that at `place`, or 0 where none is.
void check_bits(uint16_t got, bool there, const std::vector<float>& from, int64_t place) {
  CHECK(there ? is_nearest(got, from[place]) : got == 0);
}

// Rows of `row` numbers in panels of 64 that lie `panel` apart, to a left side. They are results of
// arithmetic, whose NaN are quiet.
void check_round(int64_t rows, int64_t depth, bool panels) {
  const int64_t row = panels ? 64 : depth + 5, panel = panels ? 64 * rows + 3 : 64;
  const auto place = [=](int64_t i, int64_t k) { return i * row + k / 64 * panel + k % 64; };
  auto from = make_hard(place(rows - 1, depth - 1) + 1);
  for (float& x : from) {
    if (std::isnan(x)) x = std::copysign(NAN, x);
  }
  const int64_t deep = whole(depth, 32), high = whole(rows, 16);
  Bits to(deep * high + 7, kJunk);
  pairs().round(from.data(), row, panel, rows, depth, to.data());
  for (int64_t k = 0; k < deep; ++k) {
    for (int64_t i = 0; i < high; ++i) {
      const int64_t at = i * 32 + k / 32 * 32 * high + k % 32;
      if (i < rows) {
        check_bits(to[at], k < depth, from, place(i, k));
      } else {
        CHECK(to[at] == kJunk);
      }
    }
  }
  for (int64_t i = deep * high; i < deep * high + 7; ++i) CHECK(to[i] == kJunk);
}

// A matrix [rows, columns], along its rows or its columns, to a right side.
void check_pack(int64_t rows, int64_t columns, bool turned) {
  const int64_t row = turned ? 1 : columns + 3, column = turned ? rows + 2 : 1;
  const auto from = make_hard((rows - 1) * row + (columns - 1) * column + 1);
  const int64_t deep = whole(rows, 32), wide = whole(columns, 64);
  Bits to(deep * wide + 7, kJunk);
  pairs().pack(from.data(), row, column, rows, columns, to.data());
  for (int64_t k = 0; k < deep; ++k) {
    for (int64_t j = 0; j < wide; ++j) {
      const int64_t at = j / 64 * deep * 64 + k / 2 * 128 + j % 64 * 2 + k % 2;
      check_bits(to[at], k < rows && j < columns, from, k * row + j * column);
    }
  }
  for (int64_t i = deep * wide; i < deep * wide + 7; ++i) CHECK(to[i] == kJunk);
}

// A panel's columns to the rows of a left side.
void check_turn(int64_t rows, int64_t columns) {
  const int64_t row = columns + 1;
  const auto from = make_hard((rows - 1) * row + columns);
  const int64_t deep = whole(rows, 32);
  Bits to(deep * 64 + 7, kJunk);
  pairs().turn(from.data(), row, rows, columns, to.data());
  for (int64_t k = 0; k < deep; ++k) {
    for (int64_t j = 0; j < 64; ++j) {
      const int64_t at = j * 32 + k / 32 * 32 * 64 + k % 32;
      check_bits(to[at], k < rows && j < columns, from, k * row + j);
    }
  }
  for (int64_t i = deep * 64; i < deep * 64 + 7; ++i) CHECK(to[i] == kJunk);
}

enum class Start { kNone, kOneRow, kAll };

// A product whose two sides, given as bits in plain rows, lie as multiply() reads them.
struct Product {
  int64_t rows, depth, columns;
  bool panels;  // of the result and of what it starts with
  Start start;
  std::vector<float> left, right, added;  // [rows, depth], [depth, columns], [rows, columns]
  Bits laid_left, laid_right;
  std::vector<float> laid_start, out;

  Product(int64_t rows, int64_t depth, int64_t columns, bool panels, Start start)
      : rows(rows),
        depth(depth),
        columns(columns),
        panels(panels),
        start(start),
        left(make<float>(rows * depth, 1)),
        right(make<float>(depth * columns, 2)),
        added(make<float>(rows * columns, 3, 3)) {
    for (std::vector<float>* side : {&left, &right}) {
      for (float& x : *side) x = nearest(x);
    }
    const int64_t deep = whole(depth, 32), high = whole(rows, 16);
    laid_left.assign(deep * high, 0);
    laid_right.assign(deep * whole(columns, 64), 0);
    for (int64_t k = 0; k < deep; ++k) {
      for (int64_t i = 0; i < high; ++i) {
        const uint32_t bits = i < rows && k < depth ? float_to_bits(left[i * depth + k]) >> 16 : 0;
        laid_left[k / 32 * 32 * high + i * 32 + k % 32] = i < rows ? bits : kJunk;
      }
      for (int64_t j = 0; k < depth && j < columns; ++j) {
        laid_right[j / 64 * deep * 64 + k / 2 * 128 + j % 64 * 2 + k % 2] =
            float_to_bits(right[k * columns + j]) >> 16;
      }
    }
    out.assign(size() + 70, kGuard);
    laid_start.assign(out.size(), NAN);
    for (int64_t i = 0; i < (start == Start::kAll ? rows : 1); ++i) {
      for (int64_t j = 0; j < columns; ++j) laid_start[start_place(i, j)] = added[i * columns + j];
    }
  }

  int64_t row() const { return panels ? 64 : columns + 5; }
  int64_t panel() const { return panels ? rows * 64 + 3 : 64; }
  int64_t size() const { return panels ? whole(columns, 64) / 64 * panel() : rows * row(); }
  int64_t place(int64_t i, int64_t j) const { return i * row() + j / 64 * panel() + j % 64; }
  // One row lies dense.
  int64_t start_place(int64_t i, int64_t j) const { return start == Start::kAll ? place(i, j) : j; }

  // Of `count` rows from `first` on.
  void run(int64_t first, int64_t count) {
    std::fill(out.begin(), out.end(), kGuard);
    const int64_t deep = whole(depth, 32);
    const bool all = start == Start::kAll;
    const float* begin = laid_start.data() + (all ? first * row() : 0);
    pairs().multiply({laid_left.data() + first * 32, 32, 1, 32 * whole(rows, 16), laid_right.data(),
                      deep * 64, start == Start::kNone ? nullptr : begin, all ? row() : 0,
                      all ? panel() : 64, out.data() + first * row(), row(), panel(), count, deep,
                      columns});
  }

  void check_sums() const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        double sum = 0;
        if (start != Start::kNone) sum = added[(start == Start::kAll ? i : 0) * columns + j];
        double size = std::fabs(sum);
        for (int64_t k = 0; k < depth; ++k) {
          const double part = static_cast<double>(left[i * depth + k]) * right[k * columns + j];
          sum += part;
          size += std::fabs(part);
        }
        CHECK_NEAR(out[place(i, j)], sum, 1e-6 * size);
      }
    }
  }
  // Nothing but rows [first, first + count) was written.
  void check_guards(int64_t first, int64_t count) const {
    std::vector<bool> written(out.size());
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t j = 0; j < columns; ++j) written[place(i, j)] = true;
    }
    for (size_t at = 0; at < out.size(); ++at) CHECK(written[at] || out[at] == kGuard);
  }
};

// In one of six ways: results dense or in panels, and what they start with.
void check_multiply(int64_t rows, int64_t depth, int64_t columns, int64_t way) {
  const Start starts[] = {Start::kNone, Start::kOneRow, Start::kAll};
  Product product(rows, depth, columns, way % 2 == 1, starts[way / 2]);
  product.run(0, rows);
  product.check_sums();
  product.check_guards(0, rows);
}

// A number has the same bits whatever rows stand beside its own.
void check_alone(int64_t rows, int64_t depth, int64_t columns) {
  Product product(rows, depth, columns, false, Start::kAll);
  product.run(0, rows);
  const std::vector<float> all = product.out;
  for (int64_t i = 0; i + 16 <= whole(rows, 16); ++i) {
    product.run(i, 1);
    product.check_guards(i, 1);
    for (int64_t j = 0; j < columns; ++j) {
      CHECK(product.out[product.place(i, j)] == all[product.place(i, j)]);
    }
  }
}

// A row that is no number spoils itself alone, an infinite weight its column alone.
void check_no_numbers(int64_t rows, int64_t depth, int64_t columns) {
  Product clean(rows, depth, columns, false, Start::kNone), dirty = clean;
  const int64_t bad_row = rows / 2, bad_column = columns - 3;
  dirty.laid_left[bad_row * 32 + 5] = 0x7fc0;
  dirty.laid_right[bad_column / 64 * whole(depth, 32) * 64 + bad_column % 64 * 2] = 0x7f80;
  clean.run(0, rows);
  dirty.run(0, rows);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const float was = clean.out[clean.place(i, j)], is = dirty.out[clean.place(i, j)];
      const bool infinite = j == bad_column;
      CHECK(i == bad_row ? std::isnan(is) : infinite ? !std::isfinite(is) : is == was);
    }
  }
}

void check_sides() {
  for (int64_t rows = 1; rows <= 70; ++rows) {
    for (int64_t depth : {16, 32, 48, 64, 80, 112, 128, 144}) {
      check_round(rows, depth, false);
      check_round(rows, depth, true);
    }
  }
  for (int64_t rows = 1; rows <= 100; ++rows) {
    for (int64_t columns = 16; columns <= 130; columns += 16) {
      check_pack(rows, columns, false);
      check_pack(rows, columns, true);
      if (columns <= 64) check_turn(rows, columns);
    }
  }
}

void check_products() {
  for (int64_t rows = 1; rows <= 70; ++rows) {
    for (int64_t columns = 16; columns <= 130; columns += 16) {
      check_multiply(rows, 1 + (rows * 37 + columns * 11) % 100, columns, (rows + columns) % 6);
    }
  }
  for (int64_t depth = 1; depth <= 100; ++depth) {
    check_multiply(33, depth, 80, depth % 6);
    check_multiply(5, depth, 48, depth % 6);
  }
  for (int64_t way = 0; way < 6; ++way) {
    for (int64_t rows : {7, 16, 32, 64, 70}) {
      for (int64_t columns : {48, 64, 128}) check_multiply(rows, 65, columns, way);
    }
  }
  for (int64_t rows : {1, 6, 17, 33, 70}) {
    check_alone(rows, 75, 112);
    check_no_numbers(rows, 75, 112);
  }
}

}  // namespace

int main() {
  test::on_every_isa_of_pairs([] {
    check_sides();
    check_products();
  });
  return 0;
}
