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

DataPlan plan_data(const TrainOptions& options) {
  const int64_t limit = parse_on_bad_image(options.on_bad_image);
  const Unpaired unpaired = limit > 0 ? Unpaired::collect : Unpaired::refuse;
  DataPlan plan;
  const Dataset train = find_dataset(options.dataset_path, Split::train, unpaired);
  plan.train = train.samples;
  for (const DatasetSource& source : train.sources) {
    plan.report += fmt::format("  {} pairs in {}\n", source.count, source.images.string());
  }
  BadImages bad(limit);
  for (const std::string& message : train.unpaired) {
    bad.add(message);
    plan.report += fmt::format("  left out: {}\n", message);
  }
  bad.check();
  plan.max_bad_images = limit - static_cast<int64_t>(train.unpaired.size());
  std::vector<Sample> test;
  if (!options.val_path.empty()) {
    test = find_dataset(options.val_path, Split::test, unpaired).samples;
  } else {
    // What the folders hold besides the training samples; a folder without splits holds nothing else.
    std::set<std::filesystem::path> used;
    for (const Sample& sample : plan.train) used.insert(sample.image);
    for (const Sample& sample : find_dataset(options.dataset_path, Split::all, unpaired).samples) {
      if (!used.contains(sample.image)) test.push_back(sample);
    }
  }
  if (!test.empty()) {
    const auto count = std::max<int64_t>(1, std::lround(static_cast<double>(test.size()) * options.val_fraction));
    plan.validation.assign(test.begin(), test.begin() + count);
    plan.report += fmt::format("  validation: the first {} of {} test pairs", count, test.size());
  } else {
    // No test split: hold out every n-th training pair.
    constexpr size_t kHoldOut = 10;
    std::vector<Sample> kept;
    for (size_t i = 0; i < plan.train.size(); ++i) {
      (i % kHoldOut == kHoldOut - 1 ? plan.validation : kept).push_back(plan.train[i]);
    }
    CAMO_CHECK_CODE(data, !plan.validation.empty(), "train: ", options.dataset_path, " has no test split and only ",
                    plan.train.size(), " pairs, too few to hold some out; name a validation set with --val-path");
    plan.train = kept;
    plan.report += fmt::format("  validation: {} held-out training pairs (no test split; --val-path names one)",
                               plan.validation.size());
  }
  CAMO_CHECK_CODE(usage, options.batch_size <= static_cast<int64_t>(plan.train.size()),
                  "--batch-size: must be at most ", plan.train.size(), ", the number of training pairs; got ",
                  options.batch_size);
  return plan;
}

}  // namespace camo::app
