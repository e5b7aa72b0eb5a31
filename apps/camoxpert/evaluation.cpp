#include "apps/camoxpert/evaluation.h"

#include <fmt/core.h>

#include <algorithm>

#include "apps/camoxpert/inference.h"
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

}  // namespace

EvaluationResult evaluate(CamoXpert& network, const std::vector<Sample>& samples, const EvaluationOptions& options) {
  const bool was_training = network.training();
  network.eval();
  const auto total = static_cast<int64_t>(samples.size());
  const int64_t sheet_step = std::max<int64_t>(1, total / std::max(1, options.sheet_rows));
  std::vector<std::vector<ContactPanel>> sheet;
  EvaluationResult result;
  ScoreAccumulator scores;
  for_batches(total, options.batch_size, [&](int64_t first, int64_t count) {
    std::vector<LoadedSample> loaded(static_cast<size_t>(count));
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        loaded[static_cast<size_t>(i)] = load_sample(samples[static_cast<size_t>(first + i)]);
      }
    });
    std::vector<Image> pictures;
    for (const LoadedSample& sample : loaded) pictures.push_back(sample.image);
    const std::vector<ProbabilityMap> maps = predict(network, pictures, options.img_size);
    std::vector<Image> predictions(maps.size());
    std::vector<PictureScore> batch_scores(maps.size());
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        predictions[i] = maps[i].to_image();
        batch_scores[i] = score_prediction(predictions[i], loaded[i].mask);
      }
    });
    for (int64_t i = 0; i < count; ++i) {
      const LoadedSample& sample = loaded[static_cast<size_t>(i)];
      const PictureScore& score = batch_scores[static_cast<size_t>(i)];
      result.per_image.push_back(score.scores);
      result.everything_iou += foreground_share(sample.mask) / static_cast<double>(total);
      scores.add(score);
      const bool shown = (first + i) % sheet_step == 0 && static_cast<int>(sheet.size()) < options.sheet_rows;
      if (shown && !options.contact_sheet.empty()) {
        sheet.push_back(sheet_row(samples[static_cast<size_t>(first + i)], sample, predictions[static_cast<size_t>(i)],
                                  score.scores));
      }
    }
    if (options.on_progress) options.on_progress(first + count);
  });
  const PictureScore mean = scores.mean();
  result.mean = mean.scores;
  result.curves = mean.curves;
  if (!options.contact_sheet.empty()) encode_png(options.contact_sheet, make_contact_sheet(sheet));
  network.train(was_training);
  return result;
}

}  // namespace camo::app
