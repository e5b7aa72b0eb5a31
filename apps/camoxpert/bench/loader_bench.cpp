#include "apps/camoxpert/bench/loader_bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/parallel.h"
#include "data/device_batches.h"

namespace camo::app {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Milliseconds a picture of each stage on one thread, over at most `limit` samples.
std::map<std::string, double> stage_times(const std::vector<Sample>& samples, AugmentationSet aug, int size,
                                          size_t limit) {
  const SerialScope serial;
  std::map<std::string, double> seconds;
  const auto timed = [&](const char* stage, auto&& fn) {
    const Clock::time_point start = Clock::now();
    auto result = fn();
    seconds[stage] += seconds_since(start);
    return result;
  };
  const int64_t pixels = int64_t{size} * size;
  std::vector<float> image(static_cast<size_t>(3 * pixels)), mask(static_cast<size_t>(pixels));
  const size_t count = std::min(limit, samples.size());
  for (size_t i = 0; i < count; ++i) {
    const Sample& sample = samples[i * samples.size() / count];
    LoadedSample loaded;
    loaded.image = timed("1 decode picture", [&] { return decode_image(sample.image, 3); });
    loaded.mask = timed("2 decode mask", [&] { return decode_image(sample.mask, 1); });
    ResizedSample resized = timed("3 resize", [&] { return resize_sample(loaded, size); });
    const auto index = static_cast<int64_t>(i);
    if (aug == AugmentationSet::strong) {
      resized = timed("4 augment", [&] { return augment(resized, draw_strong_augmentation(0, 0, index)); });
    }
    timed("5 normalise", [&] {
      write_sample(resized, aug == AugmentationSet::light ? draw_augmentation(0, 0, index) : Augmentation{},
                   image.data(), mask.data());
      return 0;
    });
  }
  for (auto& [stage, sum] : seconds) sum *= 1e3 / static_cast<double>(count);
  return seconds;
}

}  // namespace

nlohmann::json run_loader_bench(const LoaderBenchOptions& options) {
  CAMO_CHECK_CODE(usage, !options.dataset_path.empty(), "bench loader: needs --dataset-path");
  CAMO_CHECK_CODE(usage, options.epochs >= 1, "--epochs: must be at least 1; got ", options.epochs);
  LoaderOptions loading;
  loading.image_size = static_cast<int>(options.img_size);
  loading.batch_size = options.batch_size;
  loading.workers = options.workers;
  loading.augment = parse_augmentation_set(options.aug);
  loading.raw = options.raw;
  loading.drop_last = true;
  const std::vector<Sample> samples = find_dataset(options.dataset_path, Split::train).samples;
  DataLoader loader(samples, loading);
  CAMO_CHECK_CODE(usage, loader.batches_per_epoch() > 0, "--batch-size: must be at most the ", samples.size(),
                  " pictures of ", options.dataset_path, "; got ", options.batch_size);
  std::vector<double> rates;
  for (int64_t epoch = 0; epoch <= options.epochs; ++epoch) {
    const Clock::time_point start = Clock::now();
    loader.start_epoch(epoch);
    while (loader.next()) {
    }
    rates.push_back(static_cast<double>(loader.batches_per_epoch() * options.batch_size) / seconds_since(start));
  }
  const double first = rates.front();
  rates.erase(rates.begin());
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  const double median = (sorted[(sorted.size() - 1) / 2] + sorted[sorted.size() / 2]) / 2;
  fmt::print("{} pictures to {} px, batch {}, {} workers, --aug {}, {}\n", samples.size(), options.img_size,
             options.batch_size, options.workers, options.aug, options.raw ? "8-bit for a GPU" : "normalised");
  fmt::print("median {:.1f} pictures/s ({:.1f} to {:.1f}, {} epochs after a first of {:.1f})\n", median, sorted.front(),
             sorted.back(), rates.size(), first);
  constexpr size_t kStagePictures = 200;
  const auto stages = stage_times(samples, loading.augment, loading.image_size, kStagePictures);
  double sum = 0;
  for (const auto& [stage, milliseconds] : stages) sum += milliseconds;
  fmt::print("one picture on one thread: {:.2f} ms\n", sum);
  for (const auto& [stage, milliseconds] : stages) fmt::print("  {:<18} {:6.2f} ms\n", stage.substr(2), milliseconds);
  return {{"bench", "loader"},
          {"pictures", samples.size()},
          {"img_size", options.img_size},
          {"batch_size", options.batch_size},
          {"workers", options.workers},
          {"aug", options.aug},
          {"raw", options.raw},
          {"pictures_per_second", rates},
          {"median", median},
          {"stage_ms", stages}};
}

}  // namespace camo::app
