// What decoder_layers knows of a layer.
#pragma once

#include <array>

#include "cpu/sublayer.h"

namespace rlhf::cpu {

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
