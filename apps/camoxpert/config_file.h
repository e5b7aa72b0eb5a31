// --config FILE.
#pragma once

namespace CLI {
class App;
}

namespace camo::app {

/// Offers --config: a TOML file with flags, those of a command in its section ([train]), those without a section for
/// the command that runs. What CLI11 passes over or crashes on is ErrorCode::usage: unknown sections and keys, a key
/// without value (`loss = []`) or with several, a switch that is no boolean.
void add_config_file(CLI::App& app);

}  // namespace camo::app
