// The names that users give the estimators of the KL.
#pragma once

#include <string>

#include "check.h"
#include "math/token_kl.h"

namespace rlhf::ops {

inline math::KlEstimator parse_estimator(const char* op, const std::string& name,
                                         const char* argument = "estimator") {
  if (name == "k1") return math::KlEstimator::kK1;
  if (name == "k2") return math::KlEstimator::kK2;
  if (name == "k3") return math::KlEstimator::kK3;
  fail(op, argument, "must be 'k1', 'k2' or 'k3', got '" + name + "'");
}

}  // namespace rlhf::ops
