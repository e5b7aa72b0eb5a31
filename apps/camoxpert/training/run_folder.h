// The folder of a training run: config.toml, env.json, log.txt, metrics.jsonl, history.json, tb/, checkpoints/,
// samples/.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "apps/camoxpert/folder_lock.h"
#include "apps/camoxpert/training/tensorboard.h"

namespace camo::app {

class RunFolder {
 public:
  /// Makes the folders and writes config.toml and env.json. With `replaces` what an earlier run wrote is removed;
  /// otherwise its log is kept, and its metrics up to `resume_step` (negative: of a new run). The folder is locked as
  /// long as this lives. Throws ErrorCode::data when the folder can't be written, ErrorCode::usage when another process
  /// trains in it.
  RunFolder(const std::filesystem::path& path, const std::string& config_toml, int64_t resume_step, bool replaces);

  /// Shows a line and keeps it in log.txt.
  void log(const std::string& line);
  /// One line of metrics.jsonl. Throws ErrorCode::checkpoint when it can't be written.
  void add_metrics(const nlohmann::json& row);
  /// history.json: a row per validation.
  void write_history(const nlohmann::json& rows) const;
  TensorBoardWriter& tensorboard() { return *tensorboard_; }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path sample(std::string_view name) const;

 private:
  std::filesystem::path path_;
  std::optional<FolderLock> lock_;
  std::ofstream log_, metrics_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
};

/// RUN/checkpoints/NAME.safetensors
std::filesystem::path checkpoint_path(const std::filesystem::path& run, std::string_view name);

}  // namespace camo::app
