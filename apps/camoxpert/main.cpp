// camoxpert: trains, evaluates and runs the CamoXpert network.
#include <fmt/core.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "apps/camoxpert/arguments.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/config_file.h"
#include "apps/camoxpert/training/stop_signals.h"
#include "core/error.h"

namespace camo::app {
namespace {

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
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    parse_arguments(app, arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "camoxpert: {}\n", error.what());
    if (const std::string hint = suggestion(app, arguments); !hint.empty()) fmt::print(stderr, "{}\n", hint);
    fmt::print(stderr, "Run with --help for all flags.\n");
    return static_cast<int>(ErrorCode::usage);
  }
  for (const std::string& line : misspelt_variables(app)) fmt::print(stderr, "warning: {}\n", line);
  for (const Command& command : commands) {
    if (command.flags->parsed()) command.run();
  }
  return 0;
}

}  // namespace
}  // namespace camo::app

namespace {

/// On standard error, if that can be written.
int failed(camo::ErrorCode code, const char* text) {
  std::fprintf(stderr, "camoxpert: %s\n", text);
  return exit_code_of(code);
}

}  // namespace

int main(int argc, char** argv) {
  camo::app::receive_stop_signals();
  camo::app::keep_freed_memory();
  try {
    const int code = camo::app::run(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    return failed(camo::ErrorCode::data, "standard output: can't be written; is the disk full?");
  } catch (const camo::app::StoppedBySignal&) {
    return camo::app::kStoppedExitCode;
  } catch (const camo::Error& error) {
    return failed(error.code(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return failed(camo::ErrorCode::data, error.what());
  } catch (const std::bad_alloc&) {
    return failed(camo::ErrorCode::out_of_memory,
                  "memory: the CPU has not enough left; lower --batch-size or --img-size");
  } catch (const std::exception& error) {
    return failed(camo::ErrorCode::general, error.what());
  }
}
