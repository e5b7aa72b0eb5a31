// Where the time of one run goes, as a table.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "apps/camoxpert/bench/op_profile.h"

namespace camo::app {

/// Prints times and floors by family, by operation (2 * rows) and by operation and shape (rows); returns all of them.
nlohmann::json print_breakdown(const OpProfile& profile, const Peaks& peaks, int rows);

}  // namespace camo::app
