#include "apps/camoxpert/config_file.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/camoxpert/arguments.h"
#include "core/error.h"

namespace camo::app {
namespace {

std::string did_you_mean(const std::string& typed, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(typed, known);
  return nearest.empty() ? "" : concat_text("; did you mean ", nearest, "?");
}

/// CLI11 takes every # for the begin of a comment, also within quotes, and no comment behind a [section].
std::string without_comments(std::istream& input) {
  std::string text;
  for (std::string line; std::getline(input, line);) {
    char quote = 0;
    for (const char c : line) {
      if (quote == 0 && c == '#') break;
      if (quote == c) quote = 0;
      else if (quote == 0 && (c == '"' || c == '\'')) quote = c;
      text += c;
    }
    text += '\n';
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

class ConfigFile : public CLI::ConfigTOML {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) { comment('\0'); }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::istringstream lines(without_comments(input));
    std::vector<CLI::ConfigItem> read = CLI::ConfigTOML::from_config(lines);
    std::set<std::string> names;
    for (CLI::ConfigItem& item : read) {
      const bool is_section = item.name == "++" || item.name == "--";  // its begin and its end
      const auto running = app_.get_subcommands();
      if (item.parents.empty() && !is_section && !running.empty()) item.parents = {running.front()->get_name()};
      const CLI::App* const command = item.parents.empty() ? nullptr : find_section(item.parents);
      if (command == nullptr || is_section) continue;
      check(item, *command);
      CAMO_CHECK_CODE(usage, names.insert(item.fullname()).second, "--config: '", item.fullname(),
                      "' must have one value; got another one further down");
    }
    return read;
  }

 private:
  const CLI::App* find_section(const std::vector<std::string>& parents) const {
    const CLI::App* const command = find_command(app_, parents.front());
    if (command == nullptr || parents.size() > 1) {
      std::vector<std::string> known;
      for (const CLI::App* other : app_.get_subcommands(nullptr)) known.push_back(other->get_name());
      fail(ErrorCode::usage, "--config: a section must have the name of a command; got [",
           CLI::detail::join(parents, "."), "]", did_you_mean(parents.front(), known));
    }
    return command;
  }

  static void check(const CLI::ConfigItem& item, const CLI::App& command) {
    const CLI::Option* option = command.get_option_no_throw("--" + item.name);
    if (option == nullptr) option = command.get_option_no_throw(item.name);  // an argument without dashes
    if (option == nullptr || !option->get_configurable()) {
      std::vector<std::string> known;
      for (const CLI::Option* other : command.get_options())
        if (other->get_configurable())
          known.insert(known.end(), other->get_lnames().begin(), other->get_lnames().end());
      fail(ErrorCode::usage, "--config: '", item.fullname(), "' is no flag of ", command.get_name(),
           did_you_mean(item.name, known));
    }
    const auto count = static_cast<int>(item.inputs.size());
    CAMO_CHECK_CODE(usage, count > 0, "--config: '", item.fullname(), "' must have a value; got an empty list");
    CAMO_CHECK_CODE(usage, count <= std::max(1, option->get_items_expected_max()), "--config: '", item.fullname(),
                    "' must have one value; got ", count);
    const std::string name = concat_text("--config: '", item.fullname(), "'");
    if (is_switch(*option)) check_switch(name, item.inputs.front());
    else check_number(name, *option, item.inputs.front());
  }

  const CLI::App& app_;
};

}  // namespace

void add_config_file(CLI::App& app) {
  app.set_config("--config", "", "TOML file with flags, e.g. the config.toml of a run folder")->expected(1);
  app.config_formatter(std::make_shared<ConfigFile>(app));
}

}  // namespace camo::app
