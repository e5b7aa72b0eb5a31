#include "apps/camoxpert/arguments.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <set>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace camo::app {
namespace {

using Arguments = std::vector<std::string>;

/// "batch-size" -> "CAMO_BATCH_SIZE".
std::string variable_of(const std::string& flag) {
  std::string name = "CAMO_";
  for (char c : flag) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

/// The flags that a variable can set, without their dashes.
std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames())
      if (name != "help" && name != "config") names.push_back(name);
  }
  return names;
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

/// The position of the subcommand: the first argument besides --config FILE.
size_t command_position(const Arguments& arguments) {
  size_t i = 0;
  while (i < arguments.size() && arguments[i].starts_with("--config")) i += arguments[i] == "--config" ? 2 : 1;
  return std::min(i, arguments.size());
}

/// Variables go in front of the flags of the command as if typed there, unless the flag is typed too.
Arguments from_environment(const CLI::App& command, const Arguments& typed) {
  Arguments found;
  for (const std::string& name : flags_of(command)) {
    const char* const value = std::getenv(variable_of(name).c_str());
    if (value == nullptr || *value == '\0') continue;
    const std::string flag = "--" + name;
    const bool is_typed = std::any_of(typed.begin(), typed.end(), [&](const std::string& argument) {
      return argument == flag || argument.starts_with(flag + "=");
    });
    if (!is_typed) found.push_back(concat_text(flag, "=", value));
  }
  return found;
}

/// What CLI11 2.1 gets wrong: `--flag=` takes the next argument for its value, `--flag --other` takes a flag for one,
/// and a switch is whatever a number of 64 bits makes of its value.
Arguments mend(const CLI::App& command, const Arguments& arguments) {
  Arguments mended;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const CLI::Option* const option = name.starts_with("--") ? command.get_option_no_throw(name) : nullptr;
    mended.push_back(argument);
    if (option == nullptr) continue;
    if (equals != std::string::npos) {
      const std::string value = argument.substr(equals + 1);
      if (is_switch(*option)) check_switch(name, value);
      else check_number(name, *option, value);
      if (value.empty()) mended.back() = name, mended.emplace_back();
    } else if (option->get_items_expected_min() > 0 && i + 1 < arguments.size()) {
      const std::string& value = arguments[++i];
      CAMO_CHECK_CODE(usage, !value.starts_with("--") || command.get_option_no_throw(value) == nullptr, name,
                      ": must have a value; got the flag ", value);
      check_number(name, *option, value);
      mended.push_back(value);
    }
  }
  return mended;
}

template <class Number>
bool is_number(const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) return false;
  if constexpr (std::is_integral_v<Number>) return std::to_string(value) == text;  // no leading zeros
  return true;
}

const CLI::App* parsed_command(const CLI::App& app) {
  const auto commands = app.get_subcommands();
  return commands.empty() ? nullptr : commands.front();
}

}  // namespace

const CLI::App* find_command(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands(nullptr))
    if (command->get_name() == name) return command;
  return nullptr;
}

void check_switch(const std::string& name, const std::string& text) {
  static constexpr std::array kValues{"true", "false", "on", "off", "yes", "no", "1", "0"};
  const std::string lower = CLI::detail::to_lower(text);
  CAMO_CHECK_CODE(usage, std::find(kValues.begin(), kValues.end(), lower) != kValues.end(), name,
                  ": a switch must be true, false, on, off, yes, no, 1 or 0; got '", text, "'");
}

void check_number(const std::string& name, const CLI::Option& option, const std::string& text) {
  const std::string type = option.get_type_name();
  if (type.starts_with("TEXT") || option.get_items_expected_max() > 1) return;
  if (type == "FLOAT") CAMO_CHECK_CODE(usage, is_number<double>(text), name, ": must be a number; got '", text, "'");
  else if (type == "UINT")
    CAMO_CHECK_CODE(usage, is_number<uint64_t>(text), name, ": must be a whole number from 0 to 2^64 - 1; got '", text,
                    "'");
  else CAMO_CHECK_CODE(usage, is_number<int64_t>(text), name, ": must be a whole number of 64 bits; got '", text, "'");
}

void parse_arguments(CLI::App& app, Arguments arguments) {
  const size_t position = command_position(arguments);
  const CLI::App* const command = position < arguments.size() ? find_command(app, arguments[position]) : nullptr;
  if (command != nullptr) {
    const auto flags = arguments.begin() + static_cast<std::ptrdiff_t>(position) + 1;
    Arguments typed(flags, arguments.end());
    Arguments all = from_environment(*command, typed);
    all.insert(all.end(), typed.begin(), typed.end());
    arguments.erase(flags, arguments.end());
    const Arguments mended = mend(*command, all);
    arguments.insert(arguments.end(), mended.begin(), mended.end());
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
  app.parse(std::move(arguments));
}

std::vector<std::string> misspelt_variables(const CLI::App& app) {
  const CLI::App* const command = parsed_command(app);
  if (command == nullptr) return {};
  std::set<std::string> all;
  for (const CLI::App* other : app.get_subcommands(nullptr))
    for (const std::string& name : flags_of(*other)) all.insert(variable_of(name));
  std::vector<std::string> own, lines;
  for (const std::string& name : flags_of(*command)) own.push_back(variable_of(name));
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    if (!name.starts_with("CAMO_") || all.contains(name)) continue;
    if (const std::string meant = nearest_name(name, own); !meant.empty())
      lines.push_back(fmt::format("the environment variable {} is not known; did you mean {}?", name, meant));
  }
  return lines;
}

std::string nearest_name(const std::string& typed, const std::vector<std::string>& known) {
  constexpr size_t kChanges = 4;
  const auto bare = [](const std::string& name) {
    for (const char* prefix : {"--", "CAMO_"})
      if (name.starts_with(prefix)) return name.substr(std::string_view(prefix).size());
    return name;
  };
  std::string nearest;
  size_t fewest = std::min(kChanges, (bare(typed).size() + 1) / 2) + 1;
  for (const std::string& name : known) {
    if (const size_t distance = edit_distance(bare(typed), bare(name)); distance < fewest)
      fewest = distance, nearest = name;
  }
  return nearest;
}

std::string suggestion(const CLI::App& app, const Arguments& arguments) {
  const CLI::App* const command = parsed_command(app);
  std::vector<std::string> known;
  if (command == nullptr) {
    for (const CLI::App* other : app.get_subcommands(nullptr)) known.push_back(other->get_name());
  } else {
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    known.emplace_back("--config");
  }
  for (const std::string& argument : arguments) {
    const std::string typed = argument.substr(0, argument.find('='));
    if (std::find(known.begin(), known.end(), typed) != known.end()) continue;
    if (command != nullptr && !typed.starts_with("--")) continue;
    if (const std::string meant = nearest_name(typed, known); !meant.empty())
      return fmt::format("'{}' is not known; did you mean {}?", typed, meant);
  }
  return {};
}

}  // namespace camo::app
