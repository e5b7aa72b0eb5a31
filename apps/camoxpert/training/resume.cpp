#include "apps/camoxpert/training/resume.h"

#include <tuple>

#include "apps/camoxpert/training/run_folder.h"
#include "core/error.h"

namespace camo::app {

namespace fs = std::filesystem;

ResumePoint read_resume_point(const fs::path& file) {
  ResumePoint point{.file = file, .contents = read_checkpoint(file), .state = {}};
  CAMO_CHECK_CODE(checkpoint, !point.contents.run_state.empty(), file.string(),
                  ": holds weights, but no state of a run to go on from");
  point.state = run_state_from_text(point.contents.run_state, file.string());
  return point;
}

std::optional<ResumePoint> newest_resume_point(const fs::path& run, std::vector<std::string>& warnings) {
  std::optional<ResumePoint> newest;
  std::string damaged;
  for (const char* name : {"last", "best"}) {
    const fs::path file = checkpoint_path(run, name);
    if (!fs::exists(file)) continue;
    try {
      ResumePoint point = read_resume_point(file);
      const auto age = [](const RunState& s) { return std::tuple(s.step, s.validated_step); };
      if (!newest || age(point.state) > age(newest->state)) newest = std::move(point);
    } catch (const Error& error) {
      damaged = error.what();
      warnings.push_back("warning: passed over: " + damaged);
    }
  }
  CAMO_CHECK_CODE(checkpoint, newest || damaged.empty(), "--resume auto: no checkpoint in ", run.string(),
                  " is valid; give another one, or --overwrite to start again\n  ", damaged);
  return newest;
}

bool is_of_run(const fs::path& file, const fs::path& run) {
  return fs::weakly_canonical(file).parent_path() == fs::weakly_canonical(run / "checkpoints");
}

std::optional<ResumePoint> find_resume_point(const TrainOptions& options, const std::string& config,
                                             const std::string& data_fingerprint, std::vector<std::string>& warnings) {
  const fs::path run = options.checkpoint_dir;
  const bool goes_on = options.resume == "auto" || (!options.resume.empty() && is_of_run(options.resume, run));
  CAMO_CHECK_CODE(
      usage, goes_on || options.overwrite || !fs::exists(checkpoint_path(run, "last")),
      "--checkpoint-dir: ", run.string(), " holds ",
      options.resume.empty() ? "a run; give --resume auto to go on, " : "another run than that of --resume; give ",
      "--overwrite to replace it, or another folder");
  if (options.resume.empty()) return std::nullopt;
  std::optional<ResumePoint> point;
  if (options.resume == "auto") point = newest_resume_point(run, warnings);
  else point = read_resume_point(options.resume);
  if (!point) return point;
  for (std::string& warning : compare_configs(point->state.config, config)) warnings.push_back(std::move(warning));
  CAMO_CHECK_CODE(data, point->state.data_fingerprint == data_fingerprint,
                  "--resume: the training pairs must be those of the stopped run (", point->state.data_fingerprint,
                  "); got ", data_fingerprint, "; check --dataset-path");
  return point;
}

}  // namespace camo::app
