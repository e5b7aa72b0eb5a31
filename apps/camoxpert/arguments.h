// The command line and CAMO_* environment variables, looked at before CLI11 sees them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace camo::app {

/// Parses the arguments as typed. In front of the command's own flags come the CAMO_* variables of the same names
/// (CAMO_BATCH_SIZE=8 for --batch-size; an empty one counts as not set). Throws ErrorCode::usage, or as CLI11 does.
void parse_arguments(CLI::App& app, std::vector<std::string> arguments);

/// "'CAMO_BACH_SIZE' ...": a line for every CAMO_* variable that looks like a flag of the command that was parsed, and
/// is none of any command.
std::vector<std::string> misspelt_variables(const CLI::App& app);

/// The flag or subcommand that was probably meant, as a sentence; empty when nothing is near.
std::string suggestion(const CLI::App& app, const std::vector<std::string>& arguments);

/// The subcommand of this name; nullptr when there is none.
const CLI::App* find_command(const CLI::App& app, const std::string& name);

/// The one of `known` with the fewest changed characters, where those are few; empty otherwise.
std::string nearest_name(const std::string& typed, const std::vector<std::string>& known);

/// Throws ErrorCode::usage unless `text` is one of the values of a switch.
void check_switch(const std::string& name, const std::string& text);

/// Throws ErrorCode::usage unless `text` is a decimal number where the option wants one. CLI11 takes an empty text for
/// 0, 010 for 8 and numbers beyond 64 bits for the largest one.
void check_number(const std::string& name, const CLI::Option& option, const std::string& text);

inline bool is_switch(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

}  // namespace camo::app
