// What decoder_layers knows of a layer: weights as they were given and as products read them.
#pragma once

#include <array>

#include "cpu/sublayer.h"

namespace rlhf::cpu {

// A weight in panels: as it was given, or laid out before anything else.
template <typename T>
struct Matrix {
  Matrix(const TensorView& view, int64_t in, int64_t out) : in(in), out(out), given(view) {
    if (view.ndim == 3) panels = view.as<T>();
  }
  // What is to be done for it.
  int64_t items() const { return given.ndim == 3 ? 0 : Room<T>::items({panel_items(in, out)}); }
  int64_t panels_to_lay() const { return given.ndim == 3 ? 0 : panel_count(out); }
  void take(Room<T, Use::kPanels>& room) {
    if (given.ndim == 2) panels = laid = room.take(panel_items(in, out));
  }
  void lay(const RowFunctions& functions, int64_t panel) const {
    Weight<T>(given).pack(functions, panel, laid);
  }
  int64_t in, out;
  TensorView given;
  const T* panels = nullptr;
  T* laid = nullptr;
};

template <typename T>
struct Layer {
  Norm<T> first;
  Matrix<T> in;
  const T* in_bias;
  Matrix<T> out;
  const T* out_bias;
  Norm<T> second;
  Matrix<T> up;
  const T* up_bias;
  Matrix<T> down;
  const T* down_bias;
  T* keys;  // [B, H, R, D / H], or null
  T* values;

  std::array<Matrix<T>*, 4> matrices() { return {&in, &out, &up, &down}; }
};

}  // namespace rlhf::cpu
