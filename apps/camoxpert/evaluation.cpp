#include "apps/camoxpert/evaluation.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "apps/camoxpert/bad_images.h"
#include "core/parallel.h"
#include "data/contact_sheet.h"
#include "data/transforms.h"

namespace camo::app {

namespace {

/// Share of the mask that is foreground: the IoU of answering 'everything'.
double foreground_share(const Image& mask) {
  const auto count =
      std::count_if(mask.pixels.begin(), mask.pixels.end(), [](uint8_t v) { return v > kMaskThreshold; });
  return static_cast<double>(count) / static_cast<double>(mask.pixels.size());
}

std::vector<ContactPanel> sheet_row(const Sample& sample, const LoadedSample& loaded, const Image& prediction,
                                    const SegmentationScores& score) {
  return {{loaded.image, sample.name},
          {loaded.mask, "mask"},
          {prediction, fmt::format("prediction, IoU {:.2f}", score.iou)},
          {error_map(prediction, loaded.mask), "red: too much, blue: missed"}};
}

struct ScoredMask {
  PictureScore score;
  double foreground = 0;
};

/// Adds up in the order of the samples, whatever order they were scored in.
class Means {
 public:
  void add(size_t number, const std::string& name, const ScoredMask& scored) {
    result_.names.push_back(name);
    result_.numbers.push_back(number);
    result_.per_image.push_back(scored.score.scores);
    result_.everything_iou += scored.foreground;
    sum_.add(scored.score);
    if (const size_t slash = name.find('/'); slash != std::string::npos) sets_[name.substr(0, slash)].add(scored.score);
  }
  EvaluationResult finish(const BadImages& bad) {
    result_.left_out = bad.messages();
    CAMO_CHECK_CODE(data, sum_.count() > 0, "evaluate: none of the ", bad.messages().size(), " pictures can be used",
                    bad.messages().empty() ? "" : "; the first: " + bad.messages().front());
    const PictureScore mean = sum_.mean();
    result_.mean = mean.scores;
    result_.curves = mean.curves;
    result_.everything_iou /= static_cast<double>(sum_.count());
    for (const auto& [label, sum] : sets_) result_.sets.emplace_back(label, sum.mean().scores);
    return std::move(result_);
  }

 private:
  EvaluationResult result_;
  ScoreAccumulator sum_;
  std::map<std::string, ScoreAccumulator> sets_;
};

}  // namespace

EvaluationResult evaluate(CamoXpert& network, const std::vector<Sample>& samples, const EvaluationOptions& options) {
  const bool was_training = network.training();
  network.eval();
  const size_t sheet_step = std::max<size_t>(1, samples.size() / static_cast<size_t>(std::max(1, options.sheet_rows)));
  std::vector<std::vector<ContactPanel>> sheet;
  Predictor predict(network, options.img_size, options.augmentation, options.autocast, options.cuda_graphs);
  Means means;
  BadImages bad(options.max_bad_images, options.left_out);
  TolerantReader<LoadedSample> reader(samples.size(), bad, [&](size_t i) { return load_sample(samples[i]); });
  for (auto batch = reader.next(static_cast<size_t>(options.batch_size)); !batch.empty();
       batch = reader.next(static_cast<size_t>(options.batch_size))) {
    std::vector<const Image*> pictures;
    for (const auto& [number, sample] : batch) pictures.push_back(&sample.image);
    const std::vector<ProbabilityMap> maps = predict(pictures);
    std::vector<Image> predictions(batch.size());
    std::vector<ScoredMask> scored(batch.size());
    parallel_for(static_cast<int64_t>(batch.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        predictions[i] = maps[i].to_image();
        const Image& mask = batch[i].second.mask;
        scored[i] = {score_prediction(predictions[i], mask), foreground_share(mask)};
      }
    });
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto& [number, sample] = batch[i];
      means.add(number, samples[number].name, scored[i]);
      const bool shown = number % sheet_step == 0 && static_cast<int>(sheet.size()) < options.sheet_rows;
      if (shown && !options.contact_sheet.empty()) {
        sheet.push_back(sheet_row(samples[number], sample, predictions[i], scored[i].score.scores));
      }
    }
    if (options.on_progress) options.on_progress(static_cast<int64_t>(reader.position()));
  }
  EvaluationResult result = means.finish(bad);
  result.usage = predict.usage();
  if (!sheet.empty()) encode_png(options.contact_sheet, make_contact_sheet(sheet));
  network.train(was_training);
  return result;
}

EvaluationResult evaluate_predictions(const std::vector<PredictionFile>& files, const EvaluationOptions& options) {
  Means means;
  BadImages bad(options.max_bad_images, options.left_out);
  TolerantReader<ScoredMask> reader(files.size(), bad, [&](size_t i) {
    const auto [prediction, mask] = decode_both(files[i].prediction, 1, files[i].mask, 1);
    return ScoredMask{score_prediction(prediction, mask), foreground_share(mask)};
  });
  const auto at_once = static_cast<size_t>(8 * num_threads());
  for (auto batch = reader.next(at_once); !batch.empty(); batch = reader.next(at_once)) {
    for (const auto& [number, scored] : batch) means.add(number, files[number].name, scored);
    if (options.on_progress) options.on_progress(static_cast<int64_t>(reader.position()));
  }
  return means.finish(bad);
}

}  // namespace camo::app
