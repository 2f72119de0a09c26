// The instruction sets of this machine, one after the other.
#pragma once

#include <cstdlib>
#include <stdexcept>

#include "cpu/rows.h"

namespace rlhf::test {

template <typename Body>
void on_every_isa(const Body& body) {
  for (const char* isa : {"baseline", "avx2", "avx512", "avx512bf16"}) {
    setenv("RLHF_KERNELS_ISA", isa, 1);
    try {
      cpu::current_isa();
    } catch (const std::invalid_argument&) {
      continue;  // this machine lacks it
    }
    body();
  }
}

}  // namespace rlhf::test
