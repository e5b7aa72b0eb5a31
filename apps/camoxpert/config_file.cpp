#include "apps/camoxpert/config_file.h"

#include <memory>

#include "core/error.h"

namespace camo::app {
namespace {

class ConfigFile : public CLI::ConfigTOML {
 public:
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> read = CLI::ConfigTOML::from_config(input);
    for (const CLI::ConfigItem& item : read) {
      const bool is_section = item.name == "++" || item.name == "--";  // its begin and its end
      CAMO_CHECK_CODE(usage, is_section || !item.inputs.empty(), "--config: '", item.fullname(),
                      "' must have a value; got an empty list");
    }
    return read;
  }
};

}  // namespace

void add_config_file(CLI::App& app) {
  app.set_config("--config", "", "TOML file with flags, e.g. the config.toml of a run folder")->expected(1);
  app.config_formatter(std::make_shared<ConfigFile>());
}

}  // namespace camo::app
