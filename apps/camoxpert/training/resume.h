// Which checkpoint a run goes on from.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/camoxpert/training/run_state.h"
#include "apps/camoxpert/training/train_options.h"
#include "models/camoxpert/checkpoint.h"

namespace camo::app {

struct ResumePoint {
  std::filesystem::path file;
  CheckpointContents contents;
  RunState state;
};

/// Reads a checkpoint and its run state. Throws ErrorCode::checkpoint when either is missing or damaged.
ResumePoint read_resume_point(const std::filesystem::path& file);

/// The newest valid checkpoint of a run folder; nothing when it has none. Others that are damaged are reported in
/// `warnings`. Throws ErrorCode::checkpoint when there are some, but all are damaged.
std::optional<ResumePoint> newest_resume_point(const std::filesystem::path& run, std::vector<std::string>& warnings);

/// Whether a checkpoint is one of a run folder's own.
bool is_of_run(const std::filesystem::path& file, const std::filesystem::path& run);

/// By --resume, --checkpoint-dir and --overwrite: where to go on, or nothing for a new run. Throws when the folder
/// holds a run that is neither gone on with nor given up by --overwrite, and when the checkpoint is of a run with other
/// settings
/// (`config`) or data.
std::optional<ResumePoint> find_resume_point(const TrainOptions& options, const std::string& config,
                                             const std::string& data_fingerprint, std::vector<std::string>& warnings);

}  // namespace camo::app
