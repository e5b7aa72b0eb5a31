// camoxpert prepare: a copy of a data set at the size that training wants.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/folder_lock.h"
#include "apps/camoxpert/json_text.h"
#include "apps/camoxpert/progress.h"
#include "core/atomic_file.h"
#include "core/parallel.h"
#include "data/transforms.h"

namespace camo::app {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSettingsFile = "prepare.json";

struct PrepareOptions {
  CommonOptions common;
  std::string input, output, format = "png", on_bad_image = "error";
  int size = 0, quality = 95;
};

/// One pair and where its copy goes.
struct Job {
  const Sample* sample;
  fs::path image, mask;
};

nlohmann::ordered_json settings_of(const PrepareOptions& options) {
  nlohmann::ordered_json settings{{"input", options.input}, {"size", options.size}, {"format", options.format}};
  if (options.format == "jpg") settings["quality"] = options.quality;
  return settings;
}

void check(const PrepareOptions& options) {
  CAMO_CHECK_CODE(usage, options.size >= 32 && options.size <= 4096, "--size: must be within 32 and 4096; got ",
                  options.size);
  CAMO_CHECK_CODE(usage, options.format == "png" || options.format == "jpg", "--format: must be png or jpg; got ",
                  options.format);
  CAMO_CHECK_CODE(usage, options.quality >= 1 && options.quality <= 100, "--quality: must be within 1 and 100; got ",
                  options.quality);
  CAMO_CHECK_CODE(data, !fs::exists(options.output) || fs::is_directory(options.output),
                  "--output: must be a folder; got the file ", options.output);
}

/// A folder that holds something else, or copies of other settings, is left alone.
void check_output_folder(const PrepareOptions& options) {
  const fs::path settings_file = fs::path(options.output) / kSettingsFile;
  if (!fs::exists(options.output) || fs::is_empty(options.output)) return;
  CAMO_CHECK_CODE(data, fs::exists(settings_file), "--output: the folder must be empty or hold an earlier copy; got ",
                  options.output, ", which has no ", kSettingsFile);
  const auto found = nlohmann::json::parse(std::ifstream(settings_file), nullptr, false);
  CAMO_CHECK_CODE(data, found == nlohmann::json(settings_of(options)), "--output: ", settings_file.string(),
                  " is of a copy with other settings: ", json_text(found), "; wanted ", json_text(settings_of(options)),
                  "; use another folder or remove this one");
}

std::vector<Job> plan(const DatasetSplits& splits, const PrepareOptions& options) {
  std::vector<Job> jobs;
  const std::string suffix = "." + options.format;
  for (const auto& [split, samples] : {std::pair("Train", &splits.train), std::pair("Test", &splits.test)}) {
    const fs::path folder = splits.test.empty() ? fs::path(options.output) : fs::path(options.output) / split;
    std::set<std::string> names;
    for (const Sample& sample : *samples) {
      std::string name = sample.name;
      std::replace(name.begin(), name.end(), '/', '_');
      CAMO_CHECK_CODE(data, names.insert(name).second, "prepare: two pictures would be called ", name,
                      "; prepare the data sets one by one");
      jobs.push_back({&sample, folder / "Imgs" / (name + suffix), folder / "GT" / (name + ".png")});
    }
  }
  return jobs;
}

/// Files are written whole or not at all, so one that is there and newer than its source is finished.
bool is_done(const fs::path& copy, const fs::path& source) {
  std::error_code missing;
  const auto written = fs::last_write_time(copy, missing);
  return !missing && written >= fs::last_write_time(source, missing) && !missing;
}

void copy_pair(const Job& job, const PrepareOptions& options) {
  ResizedSample resized = resize_sample(load_sample(*job.sample), options.size);
  for (uint8_t& value : resized.mask.pixels) value = value != 0 ? 255 : 0;
  if (options.format == "jpg") encode_jpeg(job.image, resized.image, options.quality);
  else encode_png(job.image, resized.image);
  encode_png(job.mask, resized.mask);  // last: a pair with a mask is complete
}

void run_prepare(const PrepareOptions& options) {
  options.common.apply();
  check(options);
  const int64_t limit = parse_on_bad_image(options.on_bad_image);
  const DatasetSplits splits = find_splits(options.input, {}, Unpaired::collect);
  BadImages bad(limit, splits.unpaired);
  if (bad.too_many()) {
    std::vector<Sample> all = splits.train;
    all.insert(all.end(), splits.test.begin(), splits.test.end());
    check_all(all, limit, splits.unpaired);
  }
  const std::vector<Job> jobs = plan(splits, options);
  check_output_folder(options);
  std::error_code failure;
  fs::create_directories(options.output, failure);
  const FolderLock lock("--output", options.output);
  for (const Job& job : jobs) {
    for (const fs::path& file : {job.image, job.mask}) {
      if (!failure && !fs::is_directory(file.parent_path())) fs::create_directories(file.parent_path(), failure);
    }
  }
  CAMO_CHECK_CODE(data, !failure, "prepare: can't create folders in ", options.output, ": ", failure.message());
  std::set<fs::path> folders;
  for (const Job& job : jobs) folders.insert({job.image.parent_path(), job.mask.parent_path()});
  for (const fs::path& folder : folders) remove_leftovers(folder);
  write_file_atomically(fs::path(options.output) / kSettingsFile, json_text(settings_of(options), 1) + "\n");

  Progress progress("prepare", static_cast<int64_t>(jobs.size()), "pairs");
  TolerantReader<bool> reader(jobs.size(), bad, [&](size_t i) {
    if (is_done(jobs[i].mask, jobs[i].sample->mask) && is_done(jobs[i].image, jobs[i].sample->image)) return false;
    copy_pair(jobs[i], options);
    return true;
  });
  int64_t written = 0, there = 0;
  const auto at_once = static_cast<size_t>(8 * num_threads());
  for (auto batch = reader.next(at_once); !batch.empty(); batch = reader.next(at_once)) {
    for (const auto& [number, is_new] : batch) ++(is_new ? written : there);
    progress.update(static_cast<int64_t>(reader.position()));
  }
  progress.finish();
  bad.report();
  fmt::print("{} pairs of {} x {} px written to {}, {} were there, in {} ({:.1f} pairs/s)\n", written, options.size,
             options.size, options.output, there, format_duration(progress.seconds()),
             static_cast<double>(written) / progress.seconds());
}

}  // namespace

Command add_prepare_command(CLI::App& app) {
  auto options = std::make_shared<PrepareOptions>();
  CLI::App* flags = app.add_subcommand("prepare", "Write a copy of a data set at the size that training wants");
  options->common.add_to(*flags);
  flags->add_option("--input", options->input, "Data set folder; several joined with '+'")->required();
  flags->add_option("--output", options->output, "Folder for the copy (made if missing); a stopped copy is continued")
      ->required();
  flags->add_option("--size", options->size, "Side of the square copies: the --img-size of training")->required();
  flags->add_option("--format", options->format, "png: training sees the same bits as without a copy; jpg: smaller")
      ->capture_default_str();
  flags->add_option("--quality", options->quality, "Of jpg, 1 to 100")->capture_default_str();
  add_on_bad_image(*flags, options->on_bad_image);
  return {flags, [options] { run_prepare(*options); }};
}

}  // namespace camo::app
