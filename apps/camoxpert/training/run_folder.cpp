#include "apps/camoxpert/training/run_folder.h"

#include <fmt/core.h>

#include "apps/camoxpert/system_info.h"
#include "core/error.h"
#include "core/safetensors.h"

namespace camo::app {

namespace fs = std::filesystem;

RunFolder::RunFolder(const fs::path& path, const std::string& config_toml) : path_(path) {
  for (const char* folder : {"checkpoints", "samples"}) {
    std::error_code failure;
    fs::create_directories(path / folder, failure);
    CAMO_CHECK_CODE(data, !failure, "--checkpoint-dir: can't create ", (path / folder).string(), ": ",
                    failure.message(), "; choose a folder you can write to");
  }
  write_file_atomically(path / "config.toml", config_toml);
  nlohmann::json environment;
  for (const auto& [key, value] : system_info()) environment[key] = value;
  write_file_atomically(path / "env.json", environment.dump(2) + "\n");
  log_.open(path / "log.txt", std::ios::app);
  metrics_.open(path / "metrics.jsonl", std::ios::app);
  CAMO_CHECK_CODE(data, log_ && metrics_, "--checkpoint-dir: can't write in ", path.string());
}

void RunFolder::log(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
  log_ << line << std::endl;
}

void RunFolder::add_metrics(const nlohmann::json& row) { metrics_ << row.dump() << std::endl; }

void RunFolder::add_epoch(const nlohmann::json& epoch) {
  history_.push_back(epoch);
  write_file_atomically(path_ / "history.json", history_.dump(2) + "\n");
}

fs::path RunFolder::checkpoint(std::string_view name) const {
  return path_ / "checkpoints" / (std::string(name) + ".safetensors");
}

fs::path RunFolder::sample(std::string_view name) const { return path_ / "samples" / (std::string(name) + ".png"); }

}  // namespace camo::app
