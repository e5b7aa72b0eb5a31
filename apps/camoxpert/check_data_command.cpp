// camoxpert check-data: decodes a whole data set and says what is wrong with it.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/json_text.h"
#include "apps/camoxpert/progress.h"
#include "core/atomic_file.h"
#include "data/check_dataset.h"

namespace camo::app {

namespace {

struct CheckDataOptions {
  CommonOptions common;
  std::string dataset_path, val_path, json;
  int64_t list = 10;
};

std::string to_json(const DatasetReport& report) {
  nlohmann::ordered_json file;
  for (const SplitSummary& split : report.splits) {
    file["splits"][split.name] = {{"pairs", split.pairs},
                                  {"good", split.good},
                                  {"width", {split.min_width, split.max_width}},
                                  {"height", {split.min_height, split.max_height}},
                                  {"foreground", split.foreground}};
  }
  file["findings"] = nlohmann::ordered_json::array();
  for (const DatasetFinding& finding : report.findings) {
    file["findings"].push_back({{"error", finding.is_error}, {"kind", finding.kind}, {"message", finding.message}});
  }
  return json_text(file, 1) + "\n";
}

void run_check_data(const CheckDataOptions& options) {
  options.common.apply();
  CAMO_CHECK_CODE(usage, options.list >= 0, "--list: must not be negative; got ", options.list);
  check_output_file("--json", options.json);
  const DatasetSplits splits = find_splits(options.dataset_path, options.val_path, Unpaired::collect);
  Progress progress("check-data", static_cast<int64_t>(splits.train.size() + splits.test.size()), "pairs");
  const DatasetReport report = check_dataset(splits, [&](int64_t done) { progress.update(done); });
  progress.finish();
  fmt::print("{:<6} {:>7} {:>7} {:>15} {:>15} {:>11}\n", "split", "pairs", "good", "width", "height", "foreground");
  for (const SplitSummary& split : report.splits) {
    fmt::print("{:<6} {:>7} {:>7} {:>15} {:>15} {:>9.1f} %\n", split.name, split.pairs, split.good,
               fmt::format("{} to {}", split.min_width, split.max_width),
               fmt::format("{} to {}", split.min_height, split.max_height), 100 * split.foreground);
  }
  std::map<std::pair<bool, std::string>, int64_t> counts;
  for (const DatasetFinding& finding : report.findings) {
    const int64_t shown = counts[{!finding.is_error, finding.kind}]++;
    // All errors are listed; of the rest, some of each kind.
    if (finding.is_error || shown < options.list)
      fmt::print("{} ({}): {}\n", finding.is_error ? "error" : "note", finding.kind, finding.message);
  }
  for (const auto& [kind, count] : counts)
    fmt::print("{:>7} {} ({})\n", count, kind.first ? "notes" : "errors", kind.second);
  if (!options.json.empty()) write_file_atomically(options.json, to_json(report));
  const int64_t errors = report.errors();
  CAMO_CHECK_CODE(data, errors == 0, "check-data: ", errors, " errors in ", options.dataset_path,
                  "; mend or remove these files, or leave them out with --on-bad-image skip:N");
  fmt::print("no errors; checked in {}\n", format_duration(progress.seconds()));
}

}  // namespace

Command add_check_data_command(CLI::App& app) {
  auto options = std::make_shared<CheckDataOptions>();
  CLI::App* flags = app.add_subcommand("check-data", "Decode a whole data set and report what is wrong with it");
  options->common.add_to(*flags);
  flags->add_option("--dataset-path", options->dataset_path, "Data set folder; several joined with '+'")->required();
  flags->add_option("--val-path", options->val_path, "Test set; default: the test split of --dataset-path");
  flags->add_option("--list", options->list, "Files to name per kind of note; errors are always named")
      ->capture_default_str();
  flags->add_option("--json", options->json, "Write all findings");
  return {flags, [options] { run_check_data(*options); }};
}

}  // namespace camo::app
