// --config FILE.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace camo::app {

/// Offers --config: a TOML file with flags. A flag without a value (`loss = []`) is ErrorCode::usage; CLI11 takes it
/// for a text, and crashes.
void add_config_file(CLI::App& app);

/// app.parse(arguments), the last argument first. A switch whose value is a number beyond 64 bits is ErrorCode::usage;
/// CLI11 throws std::out_of_range.
void parse_arguments(CLI::App& app, std::vector<std::string> arguments);

}  // namespace camo::app
