// camoxpert evaluate: scores of a checkpoint on a data set, or of a folder of predictions.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <string_view>

#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/evaluation.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/reporting/report.h"
#include "apps/camoxpert/reporting/score_files.h"
#include "core/atomic_file.h"
#include "models/camoxpert/checkpoint.h"

namespace camo::app {

namespace fs = std::filesystem;

namespace {

struct EvaluateOptions {
  CommonOptions common;
  std::string dataset_path, checkpoint, backbone, pred, gt, tta, on_bad_image = "error";
  std::string json, per_image, latex, report, contact_sheet;
  int64_t img_size = 0, batch_size = 4;

  bool scores_files() const { return !pred.empty(); }
};

void check(const EvaluateOptions& options) {
  CAMO_CHECK_CODE(usage, options.checkpoint.empty() != options.pred.empty(),
                  "evaluate: wants either --checkpoint (with --dataset-path) or --pred (with --gt); got ",
                  options.pred.empty() ? "neither" : "both");
  if (options.scores_files()) {
    CAMO_CHECK_CODE(usage, options.gt.empty() != options.dataset_path.empty(),
                    "evaluate: --pred wants the masks from either --gt or --dataset-path; got ",
                    options.gt.empty() ? "neither" : "both");
    const std::pair<const char*, bool> useless[] = {{"--tta", !options.tta.empty()},
                                                    {"--contact-sheet", !options.contact_sheet.empty()},
                                                    {"--backbone", !options.backbone.empty()},
                                                    {"--amp", options.common.autocast() != f32},
                                                    {"--img-size", options.img_size != 0}};
    for (const auto& [flag, given] : useless)
      CAMO_CHECK_CODE(usage, !given, flag, ": is of use with --checkpoint only; leave it out with --pred");
  } else {
    CAMO_CHECK_CODE(usage, !options.dataset_path.empty() && options.gt.empty(),
                    "evaluate: --checkpoint wants --dataset-path, and no --gt");
  }
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  check_img_size(options.img_size);
  check_output_file("--json", options.json);
  check_output_file("--per-image", options.per_image);
  check_output_file("--latex", options.latex);
  check_output_file("--report", options.report);
  check_output_file("--contact-sheet", options.contact_sheet);
}

/// Masks by name and the predictions of the same names; `left_out` gets those without prediction or picture.
std::vector<PredictionFile> find_predictions(const EvaluateOptions& options, std::vector<std::string>& left_out) {
  for (const auto& [flag, folder] : {std::pair("--pred", options.pred), std::pair("--gt", options.gt)})
    CAMO_CHECK_CODE(data, folder.empty() || fs::is_directory(folder), flag, ": no such folder; got ", folder);
  std::vector<Sample> wanted;
  if (options.gt.empty()) {
    Dataset dataset = find_dataset(options.dataset_path, Split::test, Unpaired::collect);
    wanted = std::move(dataset.samples);
    left_out = std::move(dataset.unpaired);
  } else {
    for (const auto& [_, mask] : pictures_by_stem(options.gt)) wanted.push_back({mask.filename().string(), {}, mask});
  }
  CAMO_CHECK_CODE(data, !wanted.empty() || !left_out.empty(),
                  "--gt: the folder holds no jpg, jpeg, png or bmp file; got ", options.gt);
  const auto predictions = pictures_by_stem(options.pred);
  std::vector<PredictionFile> files;
  std::map<fs::path, fs::path> masks;  // of predictions
  for (const Sample& sample : wanted) {
    const auto found = predictions.find(sample.mask.stem().string());
    if (found == predictions.end()) {
      left_out.push_back(concat_text(sample.mask.string(), ": has no prediction of the same name in ", options.pred));
      continue;
    }
    const auto [used, is_first] = masks.emplace(found->second, sample.mask);
    CAMO_CHECK_CODE(data, is_first, "--pred: ", found->second.string(), " has the name of two masks, ",
                    used->second.string(), " and ", sample.mask.string(), "; score the data sets one by one");
    files.push_back({sample.name, found->second, sample.mask, sample.image});
  }
  if (masks.size() < predictions.size())
    fmt::print("{} files in {} have no mask and are not scored\n", predictions.size() - masks.size(), options.pred);
  return files;
}

/// A line of keys and one of means per data set.
void print_summary(const EvaluationResult& result) {
  const auto line = [](const std::string& name, const auto& text_of) {
    fmt::print("{:<10}", name);
    for (const ScoreField& field : kScoreFields) {
      fmt::print(" {:>{}}", text_of(field), std::max<size_t>(6, std::string_view(field.name).size()));
    }
    fmt::print("\n");
  };
  const auto row = [&](const std::string& name, const SegmentationScores& scores) {
    line(name, [&](const ScoreField& field) { return fmt::format("{:.4f}", scores.*field.value); });
  };
  line("", [](const ScoreField& field) { return std::string(field.name); });
  for (const auto& [label, scores] : result.sets) row(label, scores);
  row("mean", result.mean);
  fmt::print("answering 'everything': IoU {:.4f}\n", result.everything_iou);
}

void run_evaluate(const EvaluateOptions& options) {
  const Device device = options.common.apply();
  check(options);
  EvaluationOptions settings;
  settings.batch_size = options.batch_size;
  settings.autocast = options.common.autocast();
  settings.cuda_graphs = parse_cuda_graphs(options.common.cuda_graphs);
  settings.contact_sheet = options.contact_sheet;
  settings.max_bad_images = parse_on_bad_image(options.on_bad_image);
  settings.augmentation = TestTimeAugmentation::parse(options.tta);
  ReportSource source;
  std::string subject;
  LoadedCheckpoint loaded;
  if (options.scores_files()) {
    source.files = find_predictions(options, settings.left_out);
    subject = fmt::format("predictions in {}", options.pred);
  } else {
    Dataset dataset = find_dataset(options.dataset_path, Split::test, Unpaired::collect);
    settings.left_out = std::move(dataset.unpaired);
    source.samples = std::move(dataset.samples);
    loaded = load_checkpoint(options.checkpoint, options.backbone);
    loaded.network->to(device, f32);
    settings.img_size = static_cast<int>(options.img_size > 0 ? options.img_size : loaded.info.img_size);
    source.network = loaded.network.get();
    subject = fmt::format("{}: {} at {} px, epoch {}{}{}", options.checkpoint, loaded.info.spec.backbone,
                          settings.img_size, loaded.info.epoch, loaded.averaged ? ", averaged weights" : "",
                          options.tta.empty() ? "" : ", test-time augmentation " + options.tta);
  }
  source.settings = settings;
  const size_t total = source.network ? source.samples.size() : source.files.size();
  Progress progress("evaluate", static_cast<int64_t>(total), "images");
  settings.on_progress = [&](int64_t done) { progress.update(done); };
  const EvaluationResult result = source.network ? evaluate(*source.network, source.samples, settings)
                                                 : evaluate_predictions(source.files, settings);
  progress.finish();
  const double seconds = progress.seconds();
  for (const std::string& message : result.left_out) fmt::print("left out: {}\n", message);
  fmt::print("{} pairs, {}{}\n", result.per_image.size(), subject,
             result.left_out.empty() ? "" : fmt::format("; {} pictures left out", result.left_out.size()));
  print_summary(result);
  fmt::print("{:.1f} images/s\n", static_cast<double>(result.per_image.size()) / seconds);
  const std::string dataset = options.gt.empty() ? options.dataset_path : options.gt;
  if (!options.json.empty()) write_file_atomically(options.json, to_json(result));
  if (!options.per_image.empty()) write_file_atomically(options.per_image, to_csv(result));
  if (!options.latex.empty()) {
    const std::string table =
        to_latex(result, source.network ? "CamoXpert" : fs::path(options.pred).filename().string(),
                 fs::path(dataset).filename().string());
    if (options.latex == "-") fmt::print("{}", table);
    else write_file_atomically(options.latex, table);
  }
  if (!options.report.empty()) write_file_atomically(options.report, make_report(result, source, {subject, dataset}));
}

}  // namespace

Command add_evaluate_command(CLI::App& app) {
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App* flags =
      app.add_subcommand("evaluate", "Score a checkpoint on a data set's test pictures, or a folder of predictions");
  options->common.add_to(*flags);
  options->common.add_amp(*flags);
  options->common.add_cuda_graphs(*flags);
  flags->add_option("--dataset-path", options->dataset_path, "Data set folder; several joined with '+'");
  flags->add_option("--checkpoint", options->checkpoint, "Checkpoint to score");
  flags->add_option("--pred", options->pred, "Folder of predicted maps to score instead of a checkpoint");
  flags->add_option("--gt", options->gt, "Folder of the masks of --pred (or --dataset-path, which also has pictures)");
  flags->add_option("--backbone", options->backbone, "Expected backbone; default: the checkpoint's");
  flags->add_option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's")
      ->capture_default_str();
  flags->add_option("--batch-size", options->batch_size, "Pictures at a time")->capture_default_str();
  add_tta(*flags, options->tta);
  add_on_bad_image(*flags, options->on_bad_image);
  flags->add_option("--json", options->json, "Write means and the scores of every picture");
  flags->add_option("--per-image", options->per_image, "Write the scores of every picture as CSV");
  flags
      ->add_option("--latex", options->latex, "Write a table for LaTeX; without a file it is printed; off unless given")
      ->expected(0, 1)
      ->default_str("-");
  flags->add_option("--report", options->report,
                    "Write one HTML page: scores, curves, a table of all pictures, the worst and best of them");
  flags->add_option("--contact-sheet", options->contact_sheet,
                    "Write a PNG of pictures, masks, predictions and errors");
  return {flags, [options] { run_evaluate(*options); }};
}

}  // namespace camo::app
