// What the tests of a layer's two halves share: numbers, memory with guards, weights that lie
// turned.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "check.h"
#include "numbers.h"

namespace rlhf::test {

template <typename T>
std::vector<double> widen(const std::vector<T>& data) {
  return {data.begin(), data.end()};
}

// A matrix [in, out] for a kernel, `turned` along its columns; where its numbers lie.
template <typename T>
TensorView matrix_view(T* data, int64_t in, int64_t out, bool turned) {
  TensorView view = view_of(data, {in, out});
  if (turned) {
    view.strides[0] = 1;
    view.strides[1] = in;
  }
  return view;
}

template <typename T>
std::vector<T> turn_matrix(const std::vector<T>& data, int64_t in, int64_t out) {
  std::vector<T> turned(data.size());
  for (int64_t k = 0; k < in; ++k) {
    for (int64_t j = 0; j < out; ++j) turned[j * in + k] = data[k * out + j];
  }
  return turned;
}

// Memory that a kernel writes: NaN before, numbers of the caller's after it.
template <typename T>
class Written {
 public:
  explicit Written(int64_t count) : count_(count), data_(count + kGuards, T(-7)) { spoil(); }
  T* data() { return data_.data(); }
  void spoil() { std::fill_n(data_.begin(), count_, std::numeric_limits<T>::quiet_NaN()); }
  // What is there, after a look at the guards.
  std::vector<T> read() const {
    for (int i = 0; i < kGuards; ++i) CHECK(data_[count_ + i] == T(-7));
    return {data_.begin(), data_.begin() + count_};
  }

 private:
  static constexpr int kGuards = 19;
  int64_t count_;
  std::vector<T> data_;
};

// Views that differ from a right one in dtype, dimensions, size, strides or device.
inline std::vector<TensorView> spoil_view(const TensorView& right) {
  std::vector<TensorView> wrong(5, right);
  wrong[0].dtype = DType::kFloat64;
  wrong[1].ndim += 1;
  wrong[2].shape[0] += 16;
  for (int64_t& stride : wrong[3].strides) stride *= 2;
  wrong[4].device = Device::kCuda;
  return wrong;
}

template <typename T>
void check_near(const std::vector<T>& got, const std::vector<double>& want, double tolerance) {
  CHECK(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], want[i], tolerance);
}

// Results of fp32 against those of fp64, relative to the largest of each.
inline void check_relative(const std::vector<std::vector<float>>& got,
                           const std::vector<std::vector<double>>& want, double tolerance) {
  for (size_t i = 0; i < want.size(); ++i) {
    double largest = 0;
    for (double x : want[i]) largest = std::max(largest, std::fabs(x));
    check_near(got[i], want[i], tolerance * largest);
  }
}

// Gradients of every `step`th number of `input` against differences of total().
template <typename Total>
void check_differences(std::vector<double>& input, const std::vector<double>& grads, size_t step,
                       const Total& total) {
  CHECK(input.size() == grads.size());
  for (size_t i = 0; i < input.size(); i += step) {
    const double before = input[i], h = 1e-5;
    input[i] = before + h;
    const double above = total();
    input[i] = before - h;
    const double below = total();
    input[i] = before;
    CHECK_NEAR(grads[i], (above - below) / (2 * h), 1e-7);
  }
}

template <typename Body>
void on_threads(int count, const Body& body) {
#ifdef _OPENMP
  const int before = omp_get_max_threads();
  omp_set_num_threads(count);
  body();
  omp_set_num_threads(before);
#else
  (void)count;
  body();
#endif
}

// Results and gradients of a half whose products are in bfloat16: as near as their factors, and of
// the same bits however matrices lie and whatever the threads.
template <typename Narrow, typename Wide, typename... Sizes>
void check_lowered(Sizes... sizes) {
  Narrow a(sizes...), turned(sizes..., true);
  Wide wide(sizes...);
  a.lowered = turned.lowered = true;
  on_threads(1, [&] { a.both(); });
  on_threads(3, [&] { turned.both(); });
  wide.both();
  const auto found = a.results();
  const auto truth = wide.results();
  check_relative(found, truth, 5e-2);
  CHECK(found == turned.results());
  double furthest = 0;
  for (size_t i = 0; i < truth[0].size(); ++i) {
    furthest = std::max(furthest, std::fabs(found[0][i] - truth[0][i]));
  }
  CHECK(furthest > 1e-3);  // so they were rounded
}

}  // namespace rlhf::test
