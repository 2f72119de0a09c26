// The instruction sets of this machine, one after the other.
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <stdexcept>

#include "cpu/rows.h"

namespace rlhf::test {

template <typename Body>
void on_each_isa(std::initializer_list<const char*> names, const Body& body) {
  for (const char* isa : names) {
    setenv("RLHF_KERNELS_ISA", isa, 1);
    try {
      cpu::current_isa();
    } catch (const std::invalid_argument&) {
      continue;  // this machine lacks it
    }
    body();
  }
}

template <typename Body>
void on_every_isa(const Body& body) {
  on_each_isa({"baseline", "avx2", "avx512", "avx512bf16"}, body);
}

// Matrix units have products by pairs of their own, and the rows of "avx512bf16".
template <typename Body>
void on_every_isa_of_pairs(const Body& body) {
  on_each_isa({"baseline", "avx2", "avx512", "avx512bf16", "amx"}, body);
}

}  // namespace rlhf::test
