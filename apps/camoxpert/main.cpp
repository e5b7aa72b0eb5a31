// camoxpert: trains, evaluates and runs the CamoXpert network.
#include <fmt/core.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/config_file.h"
#include "apps/camoxpert/training/stop_signals.h"
#include "core/error.h"

namespace camo::app {
namespace {

/// "--batch-size" -> "CAMO_BATCH_SIZE".
std::string environment_name(const std::string& flag) {
  std::string name = "CAMO_";
  for (char c : flag.substr(2)) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

/// Environment variables CAMO_* stand between the configuration file and the command line: they are put in front of the
/// flags of the command as if typed there, unless the flag is typed too.
void insert_environment(const CLI::App& command, std::vector<std::string>& arguments, size_t position) {
  std::vector<std::string> inserted;
  for (const CLI::Option* option : command.get_options()) {
    const std::string flag = option->get_name();
    if (!flag.starts_with("--") || flag == "--help" || flag == "--config") continue;
    const char* value = std::getenv(environment_name(flag).c_str());
    const bool typed = std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
      return argument == flag || argument.starts_with(flag + "=");
    });
    if (value != nullptr && !typed) inserted.push_back(flag + "=" + value);
  }
  arguments.insert(arguments.begin() + static_cast<std::ptrdiff_t>(position), inserted.begin(), inserted.end());
}

/// Number of single-character changes from a to b (Levenshtein).
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row.back();
}

/// The flags or subcommands that look like what was typed.
std::string suggestion(const CLI::App& app, const std::vector<std::string>& arguments) {
  const auto subcommands = app.get_subcommands();
  std::vector<std::string> known;
  if (subcommands.empty()) {
    for (const CLI::App* command : app.get_subcommands(nullptr)) known.push_back(command->get_name());
  } else {
    for (const CLI::Option* option : subcommands.front()->get_options()) known.push_back(option->get_name());
  }
  for (const std::string& argument : arguments) {
    const std::string typed = argument.substr(0, argument.find('='));
    if (std::find(known.begin(), known.end(), typed) != known.end()) continue;
    if (!subcommands.empty() && !typed.starts_with("--")) continue;
    const auto nearest = std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
      return edit_distance(typed, a) < edit_distance(typed, b);
    });
    if (nearest != known.end() && edit_distance(typed, *nearest) <= 4) {
      return fmt::format("'{}' is not known; did you mean {}?", typed, *nearest);
    }
  }
  return {};
}

/// Pictures and maps of a few MiB come and go all the time. Giving each back to the system and faulting its pages in
/// again took half the time of scoring predictions; so blocks below 32 MiB stay with the process.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

int run(int argc, char** argv) {
  CLI::App app{
      "CamoXpert: finds camouflaged objects in photos. `camoxpert COMMAND --help` lists the flags of a command."};
  app.set_version_flag("--version", "camoxpert " CAMO_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);  // a repeated flag replaces the earlier
  add_config_file(app);
  app.fallthrough();  // --config may stand behind the subcommand
  const std::vector<Command> commands{
      add_train_command(app),           add_evaluate_command(app), add_predict_command(app),
      add_verify_moe_command(app),      add_prepare_command(app),  add_check_data_command(app),
      add_synth_command(app),           add_info_command(app),     add_gradcheck_command(app),
      add_bench_command(app),           add_convert_command(app),  add_export_command(app),
      add_verify_attention_command(app)};
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const Command& command : commands) {
    const auto found = std::find(arguments.begin(), arguments.end(), command.flags->get_name());
    if (found == arguments.begin() && found != arguments.end()) insert_environment(*command.flags, arguments, 1);
  }
  const std::vector<std::string> typed = arguments;
  try {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
    parse_arguments(app, arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "camoxpert: {}\n", error.what());
    if (const std::string hint = suggestion(app, typed); !hint.empty()) fmt::print(stderr, "{}\n", hint);
    fmt::print(stderr, "Run with --help for all flags.\n");
    return static_cast<int>(ErrorCode::usage);
  }
  for (const Command& command : commands) {
    if (command.flags->parsed()) command.run();
  }
  return 0;
}

}  // namespace
}  // namespace camo::app

int main(int argc, char** argv) {
  camo::app::receive_stop_signals();
  camo::app::keep_freed_memory();
  try {
    return camo::app::run(argc, argv);
  } catch (const camo::app::StoppedBySignal&) {
    return camo::app::kStoppedExitCode;
  } catch (const camo::Error& error) {
    fmt::print(stderr, "camoxpert: {}\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    fmt::print(stderr, "camoxpert: {}\n", error.what());
    return static_cast<int>(camo::ErrorCode::general);
  }
}
