#include "apps/camoxpert/config_file.h"

#include <memory>
#include <stdexcept>
#include <utility>

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

void parse_arguments(CLI::App& app, std::vector<std::string> arguments) {
  try {
    app.parse(std::move(arguments));
  } catch (const std::out_of_range&) {
    fail(ErrorCode::usage,
         "a switch must be true or false, or a number of at most 64 bits; got a larger number in a flag or in the file "
         "of "
         "--config");
  }
}

}  // namespace camo::app
