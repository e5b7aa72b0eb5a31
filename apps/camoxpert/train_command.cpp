// camoxpert train.
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/training/trainer.h"

namespace camo::app {

Command add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* flags = app.add_subcommand("train", "Train CamoXpert on pictures and masks");
  options->add_to(*flags);
  return {flags, [options, flags] {
            // As a section of the program's configuration, so that --config accepts the file. Taking it back must not
            // remove the run that it describes.
            std::string config = "[train]\n" + flags->config_to_str(true, false);
            if (const size_t at = config.find("\noverwrite=true"); at != std::string::npos)
              config.replace(at, std::string_view("\noverwrite=true").size(), "\noverwrite=false");
            Trainer trainer(*options, config);
            trainer.run();
          }};
}

}  // namespace camo::app
