// What the program runs on: for `info`, the start-up report and env.json.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace camo::app {

/// Name and value, in the order to show them.
std::vector<std::pair<std::string, std::string>> system_info();

/// Bytes of physical memory of this machine.
int64_t physical_memory();

}  // namespace camo::app
