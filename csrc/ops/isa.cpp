#include "cpu/rows.h"
#include "ops.h"

namespace rlhf::ops {

const char* current_isa() { return cpu::current_isa(); }

}  // namespace rlhf::ops
