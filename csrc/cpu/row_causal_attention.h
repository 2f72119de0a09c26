// Causal attention of the query heads that share one head of keys, and its gradient.
//
//   out_i = sum_{j <= i} p_ij v_j        p_i = softmax_{j <= i}(scale q_i . k_j)
//   ds_ij = p_ij (g_i . v_j - sum_j p_ij g_i . v_j),  dq_i = scale sum_j ds_ij k_j,
//   dk_j = scale sum_i ds_ij q_i,  dv_j = sum_i p_ij g_i
//
// A head's rows are brought into the scratch as Lanes, filled up with zeros to whole vectors; keys
// and values lie there turned round too where a product runs over their rows. Queries are taken in
// panels, so that the scratch grows with L alone. The gradient computes the shares again, with the
// same bits. Positions after a query's own are left out of products, but for those of its tile,
// whose share is exactly 0; where an input is not finite, and 0 times it would be NaN, for those
// too.
//
// Included by row_body.h inside an anonymous namespace; see there.

#include "cpu/row_shares.h"

constexpr int64_t kPanel = 8 * kTileRows;  // queries

inline int64_t padded(int64_t count) { return (count + kAttentionPad - 1) & -kAttentionPad; }

// Where everything lies in the scratch, in Lanes from its begin.
struct AttentionLayout {
  int64_t size, value_size, length;  // D, E and L, padded
  // From row to row of L numbers: an odd number of cache lines, or many rows would share a few.
  int64_t across;
  int64_t query, key, key_turned, value, value_turned, upstream, shares, slopes, result, grad_key,
      grad_value, total;

  explicit AttentionLayout(const AttentionArgs& args)
      : size(padded(args.size)),
        value_size(padded(args.value_size)),
        length(padded(args.length)),
        across(length | kAttentionPad) {
    const int64_t wider = size > value_size ? size : value_size;
    query = 0;
    key = query + length * size;
    key_turned = key + length * size;
    value = key_turned + size * across;
    value_turned = value + length * value_size;
    upstream = value_turned + value_size * across;
    shares = upstream + length * value_size;
    slopes = shares + kPanel * across;
    result = slopes + kPanel * across;
    grad_key = result + kTileRows * wider;
    grad_value = grad_key + length * size;
    total = grad_value + length * value_size;
  }
};

template <typename X, typename S>
class Attention {
  using Lane = typename X::Lane;
  using V = typename X::V;

 public:
  explicit Attention(const AttentionArgs& args)
      : args(args), layout(args), scratch(static_cast<Lane*>(args.scratch)), lanes(count_up<X>()) {
    V zeros = bring(args.key, args.key_row, args.size, 1.0, at(layout.key), layout.size);
    turn(at(layout.key), layout.size, layout.length, layout.size, at(layout.key_turned),
         layout.across);
    zeros = zeros + bring(args.value, args.value_row, args.value_size, 1.0, at(layout.value),
                          layout.value_size);
    shared_zeros = zeros;
    finite = X::sum(zeros) == 0.0;
  }

  void forward(int64_t head) {
    bring_query(head);
    for (int64_t begin = 0; begin < args.length; begin += kTileRows) {
      const int64_t rows = tile_rows(begin);
      form_shares(begin, rows, at(layout.shares));
      multiply(at(layout.shares), begin, rows, layout.value, layout.value_size);
      for (int64_t i = 0; i < rows; ++i) {
        put(at(layout.result) + i * layout.value_size, args.value_size, 1.0,
            element(args.out, head * args.out_head + (begin + i) * args.out_row));
      }
    }
  }

  void begin_gradient() {
    turn(at(layout.value), layout.value_size, layout.length, layout.value_size,
         at(layout.value_turned), layout.across);
  }

  void backward(int64_t head) {
    const V zeros = shared_zeros + bring_query(head);
    finite =
        X::sum(zeros + bring(element(args.grad_out, head * args.out_head), args.out_row,
                             args.value_size, 1.0, at(layout.upstream), layout.value_size)) == 0.0;
    for (int64_t begin = 0; begin < args.length; begin += kPanel) {
      const int64_t end = args.length - begin < kPanel ? args.length : begin + kPanel;
      for (int64_t i = begin; i < end; i += kTileRows) backward_tile(head, begin, i);
      for (int64_t j = 0; j < end; j += kTileRows) {
        const bool add = head > 0 || j < begin;
        gather(begin, end, j, layout.slopes, layout.query, layout.size, add, layout.grad_key);
        gather(begin, end, j, layout.shares, layout.upstream, layout.value_size, add,
               layout.grad_value);
      }
    }
  }

  void put_gradient() {
    for (int64_t j = 0; j < args.length; ++j) {
      // the queries carry scale log2(e)
      put(at(layout.grad_key) + j * layout.size, args.size, kLn2,
          element(args.grad_key, j * args.grad_key_row));
      put(at(layout.grad_value) + j * layout.value_size, args.value_size, 1.0,
          element(args.grad_value, j * args.grad_value_row));
    }
  }

 private:
  Lane* at(int64_t place) const { return scratch + place; }
  const S* element(const void* base, int64_t index) const {
    return static_cast<const S*>(base) + index;
  }
  S* element(void* base, int64_t index) const { return static_cast<S*>(base) + index; }

  int64_t tile_rows(int64_t begin) const {
    return args.length - begin < kTileRows ? args.length - begin : kTileRows;
  }
  // Entries of a row of shares that a tile of queries has, in whole vectors.
  int64_t share_count(int64_t begin) const { return whole<X>(begin + tile_rows(begin)); }

  // The L rows of a tensor, times `factor`, into rows of `width` Lanes; zeros after them. Returns a
  // vector that sums up to 0 if all of it is finite, else to NaN.
  V bring(const void* rows, int64_t row, int64_t count, double factor, Lane* to,
          int64_t width) const {
    const V times = X::set(factor), zero = X::set(0.0);
    const Lane scalar = static_cast<Lane>(factor);
    // Rows that lie apart are asked for ahead of time; past the last this is no error.
    const uintptr_t ahead = 8 * static_cast<uintptr_t>(row) * sizeof(S);
    V zeros = zero;
    for (int64_t i = 0; i < args.length; ++i, to += width) {
      const S* from = element(rows, i * row);
      int64_t d = 0;
      for (; d + X::kWidth <= count; d += X::kWidth) {
        __builtin_prefetch(
            reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from + d) + ahead));
        const V x = X::load(from + d) * times;
        zeros = x * zero + zeros;
        X::store(to + d, x);
      }
      if (d == width) continue;
      clear<X>(to + d, width - d);
      for (int64_t rest = d; rest < count; ++rest) {
        to[rest] = static_cast<Lane>(X::scalar(from + rest)) * scalar;
      }
      for (; d < width; d += X::kWidth) zeros = X::load(to + d) * zero + zeros;
    }
    clear<X>(to, (layout.length - args.length) * width);
    return zeros;
  }
  V bring_query(int64_t head) const {
    return bring(element(args.query, head * args.query_head), args.query_row, args.size,
                 args.scale * kLog2E, at(layout.query), layout.size);
  }

  static void put(const Lane* from, int64_t count, double factor, S* to) {
    const V times = X::set(factor);
    for (int64_t d = 0; d < count; d += X::kWidth) {
      store_some<X>(to + d, X::load(from + d) * times, count - d);
    }
  }

  // p_ij of a tile's queries, exactly 0 for the j after i.
  void form_shares(int64_t begin, int64_t rows, Lane* shares) const {
    const int64_t count = share_count(begin);
    add_product<X, Lane>({at(layout.query) + begin * layout.size, layout.size, 1},
                         {at(layout.key_turned), layout.across}, args.size, rows, count / X::kWidth,
                         false, {shares, layout.across});
    for (int64_t i = 0; i < rows; ++i)
      to_shares<X>(lanes, shares + i * layout.across, begin + i + 1, count);
  }
  // How many rows go through a product at once: a share of 0 hides what is finite alone.
  int64_t together(int64_t rows) const { return finite ? rows : 1; }

  // result_i = sum_{j <= i} weight_ij b_j for a tile's rows.
  void multiply(const Lane* weights, int64_t begin, int64_t rows, int64_t b, int64_t width) const {
    const int64_t step = together(rows);
    for (int64_t i = 0; i < rows; i += step) {
      add_product<X, Lane>({weights + i * layout.across, layout.across, 1}, {at(b), width},
                           begin + i + step, step, width / X::kWidth, false,
                           {at(layout.result) + i * width, width});
    }
  }

  // The slopes of a tile's scores, and the gradient of its queries.
  void backward_tile(int64_t head, int64_t panel, int64_t begin) const {
    const int64_t rows = tile_rows(begin), count = share_count(begin);
    Lane* shares = at(layout.shares) + (begin - panel) * layout.across;
    Lane* slopes = at(layout.slopes) + (begin - panel) * layout.across;
    form_shares(begin, rows, shares);
    add_product<X, Lane>({at(layout.upstream) + begin * layout.value_size, layout.value_size, 1},
                         {at(layout.value_turned), layout.across}, args.value_size, rows,
                         count / X::kWidth, false, {slopes, layout.across});
    for (int64_t i = 0; i < rows; ++i) {
      slope_row(shares + i * layout.across, begin + i + 1, count, slopes + i * layout.across);
    }
    multiply(slopes, begin, rows, layout.key, layout.size);
    for (int64_t i = 0; i < rows; ++i) {
      put(at(layout.result) + i * layout.size, args.size, args.scale,
          element(args.grad_query,
                  head * args.grad_query_head + (begin + i) * args.grad_query_row));
    }
  }
  // g_i . v_j to slopes for the first `own`, 0 from there to `count`.
  void slope_row(const Lane* shares, int64_t own, int64_t count, Lane* slopes) const {
    const V zero = X::set(0.0);
    V sum = zero;
    for_own<X>(lanes, own, [&](int64_t j, auto kept) {
      sum = kept(X::load(shares + j) * X::load(slopes + j), zero) + sum;
    });
    const V mean = X::set(X::sum(sum));
    for_own<X>(lanes, own, [&](int64_t j, auto kept) {
      X::store(slopes + j, kept(X::load(shares + j) * (X::load(slopes + j) - mean), zero));
    });
    clear<X>(slopes + whole<X>(own), count - whole<X>(own));
  }

  // grad_j = sum_{i >= j} weight_ij b_i, or +=, over a panel's queries, for a tile's rows j.
  void gather(int64_t panel, int64_t end, int64_t j, int64_t weights, int64_t b, int64_t width,
              bool add, int64_t grad) const {
    const int64_t rows = tile_rows(j), step = together(rows);
    for (int64_t i = j; i < j + rows; i += step) {
      const int64_t first = i > panel ? i : panel;
      add_product<X, Lane>({at(weights) + (first - panel) * layout.across + i, 1, layout.across},
                           {at(b) + first * width, width}, end - first, step, width / X::kWidth,
                           add, {at(grad) + i * width, width});
    }
  }

  const AttentionArgs& args;
  const AttentionLayout layout;
  Lane* const scratch;
  const V lanes;   // 0, 1, 2, ...
  V shared_zeros;  // of keys and values, see bring()
  bool finite;     // whatever meets shares of 0
};

inline int64_t row_attention_scratch(const AttentionArgs& args) {
  return AttentionLayout(args).total;
}

template <typename X, typename S>
void row_attention(const AttentionArgs& args) {
  Attention<X, S> attention(args);
  for (int64_t head = 0; head < args.heads; ++head) attention.forward(head);
}

template <typename X, typename S>
void row_attention_gradient(const AttentionArgs& args) {
  Attention<X, S> attention(args);
  attention.begin_gradient();
  for (int64_t head = 0; head < args.heads; ++head) attention.backward(head);
  attention.put_gradient();
}

#include "cpu/row_attend_one.h"
