#include "apps/camoxpert/training/data_plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "apps/camoxpert/bad_images.h"
#include "core/crc32c.h"

namespace camo::app {

std::string DataPlan::fingerprint() const {
  uint32_t crc = 0;
  for (const Sample& sample : train) crc = crc32c(sample.name.c_str(), sample.name.size() + 1, crc);
  return fmt::format("{} pairs, {:08x}", train.size(), crc);
}

void DataPlan::check_files() const {
  const int64_t limit = max_bad_images + static_cast<int64_t>(unpaired.size());
  std::vector<std::string> messages = unpaired;
  messages.insert(messages.end(), validation_unpaired.begin(), validation_unpaired.end());
  std::vector<Sample> samples = train;
  std::set<std::filesystem::path> known;  // --val-path may be the training folder
  for (const Sample& sample : train) known.insert(sample.image);
  for (const auto* others : {&validation, &unused}) {
    for (const Sample& sample : *others) {
      if (!known.contains(sample.image)) samples.push_back(sample);
    }
  }
  check_all(samples, limit, std::move(messages));
}

DataPlan plan_data(const TrainOptions& options) {
  const int64_t limit = parse_on_bad_image(options.on_bad_image);
  DataPlan plan;
  Dataset train = find_dataset(options.dataset_path, Split::train, Unpaired::collect);
  plan.train = std::move(train.samples);
  plan.unpaired = std::move(train.unpaired);
  plan.max_bad_images = limit - static_cast<int64_t>(plan.unpaired.size());
  for (const DatasetSource& source : train.sources) {
    plan.report += fmt::format("  {} pairs in {}\n", source.count, source.images.string());
  }
  for (const std::string& message : plan.unpaired) plan.report += fmt::format("  left out: {}\n", message);
  // Without --val-path, what the folders hold besides the training samples: nothing where they have no splits.
  const bool same_folders = options.val_path.empty();
  const Dataset others = same_folders ? find_dataset(options.dataset_path, Split::all, Unpaired::collect)
                                      : find_dataset(options.val_path, Split::test, Unpaired::collect);
  std::set<std::filesystem::path> used;
  if (same_folders) {
    for (const Sample& sample : plan.train) used.insert(sample.image);
  }
  std::vector<Sample> test;
  for (const Sample& sample : others.samples) {
    if (!used.contains(sample.image)) test.push_back(sample);
  }
  const std::set<std::string> known(plan.unpaired.begin(), plan.unpaired.end());
  for (const std::string& message : others.unpaired) {
    if (!known.contains(message)) plan.validation_unpaired.push_back(message);
  }
  if (!test.empty()) {
    const auto count = std::max<int64_t>(1, std::lround(static_cast<double>(test.size()) * options.val_fraction));
    plan.validation.assign(test.begin(), test.begin() + count);
    plan.unused.assign(test.begin() + count, test.end());
    plan.report += fmt::format("  validation: the first {} of {} test pairs", count, test.size());
  } else {
    // No test split: hold out every n-th training pair.
    constexpr size_t kHoldOut = 10;
    std::vector<Sample> kept;
    for (size_t i = 0; i < plan.train.size(); ++i) {
      (i % kHoldOut == kHoldOut - 1 ? plan.validation : kept).push_back(plan.train[i]);
    }
    if (!plan.validation.empty()) plan.train = kept;
    plan.report += fmt::format("  validation: {} held-out training pairs (no test split; --val-path names one)",
                               plan.validation.size());
  }
  if (BadImages(limit, plan.unpaired).too_many() || BadImages(limit, plan.validation_unpaired).too_many())
    plan.check_files();
  CAMO_CHECK_CODE(data, !plan.validation.empty(), "train: ", options.dataset_path, " has no test split and only ",
                  plan.train.size(), " pairs, too few to hold some out; name a validation set with --val-path");
  CAMO_CHECK_CODE(usage, options.batch_size <= static_cast<int64_t>(plan.train.size()),
                  "--batch-size: must be at most ", plan.train.size(), ", the number of training pairs; got ",
                  options.batch_size);
  return plan;
}

LoaderOptions loader_options(const TrainOptions& options, const DataPlan& plan, Device device) {
  LoaderOptions loading;
  loading.image_size = options.img_size;
  loading.batch_size = options.batch_size;
  loading.workers = options.num_workers;
  loading.augment = parse_augmentation_set(options.aug);
  loading.raw = device.is_cuda();
  loading.drop_last = true;
  loading.seed = options.seed;
  loading.cache_bytes = options.cache_mb << 20;
  loading.max_bad_images = plan.max_bad_images;
  return loading;
}

}  // namespace camo::app
