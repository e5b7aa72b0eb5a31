// camoxpert train.
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/training/trainer.h"

namespace camo::app {

Command add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* flags = app.add_subcommand("train", "Train CamoXpert on pictures and masks");
  options->add_to(*flags);
  return {flags, [options, flags] {
            // As a section of the program's configuration, so that --config accepts the file.
            Trainer trainer(*options, "[train]\n" + flags->config_to_str(true, false));
            trainer.run();
          }};
}

}  // namespace camo::app
