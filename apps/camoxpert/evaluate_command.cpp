// camoxpert evaluate: scores of a checkpoint on a data set.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/evaluation.h"
#include "apps/camoxpert/progress.h"
#include "core/safetensors.h"
#include "models/camoxpert/checkpoint.h"

namespace camo::app {

namespace {

struct EvaluateOptions {
  CommonOptions common;
  std::string dataset_path, checkpoint, backbone, json, contact_sheet;
  int64_t img_size = 0, batch_size = 4;
};

nlohmann::json to_json(const SegmentationScores& scores) {
  nlohmann::json row;
  for (const ScoreField& field : kScoreFields) row[field.name] = scores.*field.value;
  return row;
}

nlohmann::json to_json(const EvaluationResult& result, const std::vector<Sample>& samples) {
  nlohmann::json per_image = nlohmann::json::array();
  for (size_t i = 0; i < samples.size(); ++i) {
    per_image.push_back(to_json(result.per_image[i]));
    per_image.back()["name"] = samples[i].name;
  }
  nlohmann::json means = to_json(result.mean);
  means["everything_iou"] = result.everything_iou;
  return {{"dataset", means}, {"per_image", per_image}};
}

void run_evaluate(const EvaluateOptions& options) {
  const Device device = options.common.apply();
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  const std::vector<Sample> samples = find_dataset(options.dataset_path, Split::test).samples;
  const LoadedCheckpoint loaded = load_checkpoint(options.checkpoint, options.backbone);
  loaded.network->to(device, f32);
  EvaluationOptions settings;
  settings.img_size = static_cast<int>(options.img_size > 0 ? options.img_size : loaded.info.img_size);
  settings.batch_size = options.batch_size;
  settings.contact_sheet = options.contact_sheet;
  Progress progress("evaluate", static_cast<int64_t>(samples.size()), "images");
  settings.on_progress = [&](int64_t done) { progress.update(done); };
  const EvaluationResult result = evaluate(*loaded.network, samples, settings);
  progress.finish();
  fmt::print("{} pairs, {} at {} px, epoch {}{}\n", samples.size(), loaded.info.spec.backbone, settings.img_size,
             loaded.info.epoch, loaded.averaged ? ", averaged weights" : "");
  fmt::print("IoU {:.4f}   S {:.4f}   MAE {:.4f}   (answering 'everything': IoU {:.4f})\n", result.mean.iou,
             result.mean.sm, result.mean.mae, result.everything_iou);
  fmt::print("{:.1f} images/s\n", static_cast<double>(samples.size()) / progress.seconds());
  if (!options.json.empty()) write_file_atomically(options.json, to_json(result, samples).dump(2) + "\n");
}

}  // namespace

Command add_evaluate_command(CLI::App& app) {
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App* flags = app.add_subcommand("evaluate", "Score a checkpoint on a data set's test pictures");
  options->common.add_to(*flags);
  flags->add_option("--dataset-path", options->dataset_path, "Data set folder; several joined with '+'")->required();
  flags->add_option("--checkpoint", options->checkpoint, "Checkpoint to score")->required();
  flags->add_option("--backbone", options->backbone, "Expected backbone; default: the checkpoint's");
  flags->add_option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's")
      ->capture_default_str();
  flags->add_option("--batch-size", options->batch_size, "Pictures at a time")->capture_default_str();
  flags->add_option("--json", options->json, "Write means and the scores of every picture");
  flags->add_option("--contact-sheet", options->contact_sheet,
                    "Write a PNG of pictures, masks, predictions and errors");
  return {flags, [options] { run_evaluate(*options); }};
}

}  // namespace camo::app
