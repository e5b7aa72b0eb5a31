// The largest of differences, which must not lose a not-a-number.
#pragma once

#include <cmath>

namespace camo::app {

/// The larger of two numbers; not-a-number when either is, where std::max may give the other.
inline double max_or_nan(double a, double b) { return std::isnan(a) || a >= b ? a : b; }

}  // namespace camo::app
