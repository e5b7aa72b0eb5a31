// camoxpert train.
#include <CLI/CLI.hpp>
#include <sstream>
#include <string>

#include "apps/camoxpert/arguments.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/training/trainer.h"

namespace camo::app {

namespace {

/// As a section of the program's configuration, so that --config accepts the file. Switches are true or false, however
/// they were typed. Taking the file back must not remove the run that it describes.
std::string configuration_of(const CLI::App& flags) {
  std::istringstream lines(flags.config_to_str(true, false));
  std::string text = "[train]\n";
  for (std::string line; std::getline(lines, line);) {
    const std::string name = line.substr(0, line.find('='));
    const CLI::Option* const option = flags.get_option_no_throw("--" + name);
    if (option != nullptr && is_switch(*option) && option->count() > 0) {
      line = name + (name != "overwrite" && option->as<bool>() ? "=true" : "=false");
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace

Command add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* flags = app.add_subcommand("train", "Train CamoXpert on pictures and masks");
  options->add_to(*flags);
  return {flags, [options, flags] {
            Trainer trainer(*options, configuration_of(*flags));
            trainer.run();
          }};
}

}  // namespace camo::app
