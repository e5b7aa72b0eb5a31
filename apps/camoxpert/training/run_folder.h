// The folder of a training run: config.toml, env.json, log.txt, metrics.jsonl, history.json, checkpoints/, samples/.
#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace camo::app {

class RunFolder {
 public:
  /// Makes the folders and writes config.toml and env.json. Throws ErrorCode::data when the folder can't be written.
  RunFolder(const std::filesystem::path& path, const std::string& config_toml);

  /// Shows a line and keeps it in log.txt.
  void log(const std::string& line);
  /// One line of metrics.jsonl.
  void add_metrics(const nlohmann::json& row);
  /// One epoch of history.json.
  void add_epoch(const nlohmann::json& epoch);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoint(std::string_view name) const;
  std::filesystem::path sample(std::string_view name) const;

 private:
  std::filesystem::path path_;
  std::ofstream log_, metrics_;
  nlohmann::json history_ = nlohmann::json::array();
};

}  // namespace camo::app
