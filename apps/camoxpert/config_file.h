// --config FILE.
#pragma once

#include <CLI/CLI.hpp>

namespace camo::app {

/// Offers --config: a TOML file with flags. A flag without a value (`loss = []`) is ErrorCode::usage; CLI11 takes it
/// for a text, and crashes.
void add_config_file(CLI::App& app);

}  // namespace camo::app
