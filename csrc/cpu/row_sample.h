// Drawing from a row: which block, which entry of it, and what truncation needs to know.
//
// A pass leaves its running mass after every block, so a draw re-reads one block. Truncation finds
// the lowest kept logit among few candidates, in sample.cpp.
//
// Included by row_body.h inside an anonymous namespace; see there.

template <typename X, typename S>
void row_blocks(const RowArgs& args, RowState* state, RowBlock* blocks) {
  row_pass<X, S>(args, EveryEntry<X>{-HUGE_VAL}, blocks, state);
}

template <typename X, typename S>
void row_kept_blocks(const RowArgs& args, double threshold, RowState* state, RowBlock* blocks) {
  row_pass<X, S>(args, EntriesFrom<X>{threshold}, blocks, state);
}

// The running sum over one block, up to an entry.
struct Walk {
  double sum;
  int64_t found;  // the last entry with mass so far
};

// exp((x - max) / T), 0 below the threshold.
template <typename X>
struct KeptMass {
  typename X::V max, scale, threshold;

  typename X::V operator()(typename X::V x) const {
    const typename X::V e = X::exp2(X::bounded((x - max) * scale));
    return X::select_less(x, threshold, X::set(0.0), e);
  }
};

// The first entry of the vector at which the sum exceeds `goal`, or the last one with mass.
template <typename X>
void walk_lanes(typename X::V mass, int64_t begin, int64_t count, double goal, Walk* walk) {
  typename X::Lane lanes[X::kWidth];
  X::store(lanes, mass);
  for (int64_t lane = 0; lane < count && lane < X::kWidth; ++lane) {
    if (!(lanes[lane] > 0)) continue;
    walk->found = begin + lane;
    walk->sum += lanes[lane];
    if (walk->sum > goal) return;
  }
}

// The same in a block. Only the vector that holds the entry is looked at lane by lane.
template <typename X, typename S>
int64_t draw_in_block(const S* x, int64_t count, const KeptMass<X>& mass, double goal) {
  Walk walk = {0.0, 0};
  int64_t last = 0;
  double before_last = 0.0;
  for (int64_t i = 0; i < count; i += X::kWidth) {
    const double sum = X::sum(mass(load_some<X>(x + i, count - i)));
    if (!(sum > 0)) continue;
    last = i;
    before_last = walk.sum;
    walk.sum += sum;
    if (walk.sum > goal) break;
  }
  walk.sum = before_last;
  walk_lanes<X>(mass(load_some<X>(x + last, count - last)), last, count - last, goal, &walk);
  return walk.found;
}

template <typename X, typename S>
int64_t row_draw(const RowArgs& args, double threshold, const RowBlock* blocks, double u) {
  const double scale = X::round(args.inverse_temperature * kLog2E);
  const int64_t count = (args.vocab + kBlock - 1) / kBlock;
  const double max = blocks[count - 1].max, goal = u * blocks[count - 1].mass;
  int64_t chosen = 0;
  double below = 0.0, factor = 1.0;
  RowBlock before = {-HUGE_VAL, 0.0};
  for (int64_t block = 0; block < count; ++block) {
    const RowBlock here = blocks[block];
    const double carried =
        before.mass > 0 ? before.mass * exp2((before.max - here.max) * scale) : 0;
    before = here;
    if (!(here.mass > carried)) continue;  // nothing with a mass in this block
    chosen = block;
    below = carried;
    factor = here.max == max ? 1.0 : exp2((here.max - max) * scale);
    if (here.mass * factor > goal) break;
  }
  // Relative to the maximum that the block knew: there its entries are not too small to tell apart.
  const double rest = factor > 0 ? goal / factor - below : 0.0;
  const KeptMass<X> mass = {X::set(blocks[chosen].max), X::set(scale), X::set(threshold)};
  const int64_t begin = chosen * kBlock;
  const int64_t size = args.vocab - begin < kBlock ? args.vocab - begin : kBlock;
  const S* x = static_cast<const S*>(args.row) + begin;
  return begin + draw_in_block<X, S>(x, size, mass, rest > 0 ? rest : 0.0);
}

template <typename X, typename S>
int64_t row_maxima(const RowArgs& args, double* maxima) {
  const S* x = static_cast<const S*>(args.row);
  int64_t groups = 0;
  for (int64_t begin = 0; begin < args.vocab; begin += kBlock) {
    const int64_t end = args.vocab - begin < kBlock ? args.vocab : begin + kBlock;
    typename X::V high = load_some<X>(x + begin, end - begin);
    for (int64_t i = begin + X::kWidth; i < end; i += X::kWidth) {
      high = X::max(load_some<X>(x + i, end - i), high);
    }
    typename X::Lane lanes[X::kWidth];
    X::store(lanes, high);
    for (int lane = 0; lane < X::kWidth && begin + lane < end; ++lane) {
      maxima[groups++] = lanes[lane];
    }
  }
  return groups;
}

template <typename X>
inline typename X::V integer_mass(typename X::V x, typename X::V max, typename X::V scale) {
  return X::floor(X::exp2(X::bounded((x - max) * scale)) * X::set(kRowMassScale));
}

template <typename X, typename S>
int64_t row_collect(const RowArgs& args, double max_value, double bound_value, double* values,
                    uint64_t* masses) {
  const S* x = static_cast<const S*>(args.row);
  const typename X::V max = X::set(max_value), bound = X::set(bound_value);
  const typename X::V scale = X::set(args.inverse_temperature * kLog2E);
  int64_t found = 0;
  for (int64_t i = 0; i < args.vocab; i += X::kWidth) {
    const typename X::V v = load_some<X>(x + i, args.vocab - i);
    if (!X::any_from(v, bound)) continue;
    typename X::Lane lanes[X::kWidth], weights[X::kWidth];
    X::store(lanes, v);
    X::store(weights, integer_mass<X>(v, max, scale));
    const int64_t left = args.vocab - i < X::kWidth ? args.vocab - i : X::kWidth;
    for (int64_t lane = 0; lane < left; ++lane) {
      values[found] = lanes[lane];
      masses[found] = static_cast<uint64_t>(weights[lane]);
      found += lanes[lane] >= bound_value;
    }
  }
  return found;
}

// In a block the sum of at most 2^11 integers up to 2^40 is exact in fp64.
template <typename X, typename S>
uint64_t row_mass(const RowArgs& args, double max_value) {
  const S* x = static_cast<const S*>(args.row);
  const typename X::V max = X::set(max_value);
  const typename X::V scale = X::set(args.inverse_temperature * kLog2E);
  uint64_t total = 0;
  for (int64_t begin = 0; begin < args.vocab; begin += kBlock) {
    const int64_t end = args.vocab - begin < kBlock ? args.vocab : begin + kBlock;
    double sum = 0.0;
    for (int64_t i = begin; i < end; i += X::kWidth) {
      sum += X::sum(integer_mass<X>(load_some<X>(x + i, end - i), max, scale));
    }
    total += static_cast<uint64_t>(sum);
  }
  return total;
}
