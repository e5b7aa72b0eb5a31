// The TOML files of --config, under the flags of `camoxpert train`.
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iterator>
#include <vector>

#include "apps/camoxpert/arguments.h"
#include "apps/camoxpert/config_file.h"
#include "apps/camoxpert/training/train_options.h"
#include "core/error.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

namespace camo::fuzz {
namespace {

/// A file in memory, for a library that wants a path.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0) std::abort();
    path_ = "/proc/self/fd/" + std::to_string(descriptor_);
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& path() const { return path_; }
  void assign(std::span<const uint8_t> bytes) {
    if (::ftruncate(descriptor_, 0) != 0) std::abort();
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = ::pwrite(descriptor_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
      if (count <= 0) std::abort();
      done += static_cast<size_t>(count);
    }
  }

 private:
  int descriptor_;
  std::string path_;
};

/// The flags of `camoxpert train`, declared once: declaring takes longer than reading a file.
struct ConfigurationReader {
  CLI::App app;
  app::TrainOptions options;
  CLI::App* train;
  MemoryFile file;

  ConfigurationReader() {
    app.require_subcommand(1);
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    app::add_config_file(app);
    app.fallthrough();
    train = app.add_subcommand("train", "");
    options.add_to(*train);
  }
};

ConfigurationReader& reader() {
  static ConfigurationReader instance;
  return instance;
}

bool run_configuration(std::span<const uint8_t> bytes) {
  ConfigurationReader& own = reader();
  own.file.assign(bytes);
  own.options = {};
  try {
    app::parse_arguments(own.app, {"train", "--config", own.file.path()});
    own.options.check();
    return true;
  } catch (const CLI::Error&) {
    return false;
  } catch (const Error&) {
    return false;
  }
}

/// Lines with other flags and other values.
std::string mutate_configuration(const std::string& text, uint64_t seed) {
  static const std::vector<std::string> kFlags = [] {
    std::vector<std::string> names;
    for (const CLI::Option* option : reader().train->get_options()) names.push_back(option->get_name().substr(2));
    return names;
  }();
  static constexpr const char* kValues[] = {"true",     "false", "-1",      "0.5", "1e308", "1e-320", "nan",
                                            "inf",      "0x10",  "[1, 2]",  "[]",  "\"\"",  "'a'",    "\"a\\\"b\"",
                                            "\"auto\"", "a b",   "\"x#y\"", "'''", "{}",    "",       "edgenext_small"};
  static constexpr const char* kLines[] = {"[train]",    "[train.data]", "[[train]]", "[]",   "[other]", "# comment",
                                           ";",          "[\"train\"]",  "[default]", "= 1",  "++",      "[train",
                                           "train.lr=1", "\"\"=1",       "[.]",       "[..]", "%[x]",    "a.b.c=1"};
  Random random(seed);
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') lines.emplace_back();
    else lines.back() += c;
  }
  std::string& line = lines[random.below(lines.size())];
  const size_t equals = std::min(line.find('='), line.size());
  const auto value = [&] {
    return random.one_in(2) ? kValues[random.below(std::size(kValues))] : std::to_string(random.number());
  };
  switch (random.below(6)) {
    case 0: line.replace(0, equals, kFlags[random.below(kFlags.size())]); break;
    case 1: line = line.substr(0, equals) + "=" + value(); break;
    case 2: line += "\n" + kFlags[random.below(kFlags.size())] + "=" + value(); break;
    case 3: line = random.one_in(2) ? "" : line + "\n" + line; break;
    case 4: line = std::string(kLines[random.below(std::size(kLines))]) + "\n" + line; break;
    default: line = random.one_in(2) ? mutate_decimal(line, random) : mutate_bytes(line, random);
  }
  std::string out = lines.front();
  for (size_t i = 1; i < lines.size(); ++i) out += "\n" + lines[i];
  return out;
}

}  // namespace

Target configuration_target() { return {"configuration", run_configuration, mutate_configuration}; }

}  // namespace camo::fuzz
