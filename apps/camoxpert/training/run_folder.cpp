#include "apps/camoxpert/training/run_folder.h"

#include <nlohmann/json.hpp>

#include "apps/camoxpert/json_text.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace camo::app {

namespace fs = std::filesystem;

namespace {

/// What a run wrote, and nothing else.
void remove_old_run(const fs::path& path) {
  if (!fs::exists(path / "env.json")) return;  // not a run folder
  for (const char* name : {"log.txt", "metrics.jsonl", "history.json"}) fs::remove(path / name);
  for (const char* name : {"last", "best"}) fs::remove(checkpoint_path(path, name));
  std::vector<fs::path> found;
  for (const auto& [folder, prefix] : {std::pair{"tb", "events.out.tfevents."}, std::pair{"samples", "epoch_"}}) {
    if (!fs::is_directory(path / folder)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(path / folder)) {
      if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
    }
  }
  for (const fs::path& file : found) fs::remove(file);
}

/// Keeps the rows of steps up to `step`: the later ones are about to be computed again.
void cut_metrics(const fs::path& path, int64_t step) {
  std::ifstream old(path);
  std::string kept;
  for (std::string line; std::getline(old, line);) {
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, false);  // a killed run may leave half a line
    if (row.is_object() && row.value("step", int64_t{0}) <= step) kept += line + "\n";
  }
  write_file_atomically(path, kept);
}

}  // namespace

RunFolder::RunFolder(const fs::path& path, const std::string& config_toml, int64_t resume_step, bool replaces)
    : path_(path) {
  try {
    fs::create_directories(path);
    lock_.emplace("--checkpoint-dir", path);
    if (replaces) remove_old_run(path);
    for (const char* folder : {"checkpoints", "samples"}) fs::create_directories(path / folder);
    for (const fs::path& folder : {path, path / "checkpoints", path / "samples"}) remove_leftovers(folder);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::data, "--checkpoint-dir: can't create ", path.string(), ": ", error.code().message(),
         "; choose a folder you can write to");
  }
  write_file_atomically(path / "config.toml", config_toml);
  nlohmann::json environment;
  for (const auto& [key, value] : system_info()) environment[key] = value;
  write_file_atomically(path / "env.json", json_text(environment, 2) + "\n");
  if (resume_step >= 0) cut_metrics(path / "metrics.jsonl", resume_step);
  log_.open(path / "log.txt", std::ios::app);
  metrics_.open(path / "metrics.jsonl", std::ios::app);
  CAMO_CHECK_CODE(data, log_ && metrics_, "--checkpoint-dir: can't write in ", path.string());
  tensorboard_ = std::make_unique<TensorBoardWriter>(path / "tb", resume_step + 1);
}

void RunFolder::log(const std::string& line) {
  show(line + "\n");
  log_ << line << std::endl;
}

void RunFolder::add_metrics(const nlohmann::json& row) {
  metrics_ << json_text(row) << std::endl;
  CAMO_CHECK_CODE(checkpoint, metrics_.good(), (path_ / "metrics.jsonl").string(),
                  ": can't be written; is the disk full?");
}

void RunFolder::write_history(const nlohmann::json& rows) const {
  write_file_atomically(path_ / "history.json", json_text(rows, 2) + "\n");
}

fs::path RunFolder::sample(std::string_view name) const { return path_ / "samples" / (std::string(name) + ".png"); }

fs::path checkpoint_path(const fs::path& run, std::string_view name) {
  return run / "checkpoints" / (std::string(name) + ".safetensors");
}

}  // namespace camo::app
