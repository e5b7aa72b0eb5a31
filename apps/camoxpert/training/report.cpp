#include "apps/camoxpert/training/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/camoxpert/attention_report.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "apps/camoxpert/training/validation.h"

namespace camo::app {

void report_start(RunFolder& folder, const TrainOptions& options, const CamoXpert& network, const DataPlan& data,
                  Device device, bool caching, const std::string& weights) {
  for (const auto& [key, value] : system_info()) folder.log(fmt::format("{:<12} {}", key, value));
  folder.log(fmt::format("device       {}, {}", device.str(), options.common.precision(device)));
  if (device.is_cuda() && options.common.cuda_graphs != "off") {
    folder.log(
        options.network.gradient_checkpointing
            ? "graphs       none with --gradient-checkpointing"
            : "graphs       all but the experts, recorded in the third batch of a stage; --cuda-graphs off: none");
  }
  if (options.common.autocast() == f16) {
    folder.log("precision    f16 with a loss scale that adapts; a step whose gradients overflow is skipped");
  }
  folder.log(fmt::format("network      CamoXpert on {}, {} experts, {:L} parameters", options.network.backbone,
                         options.network.num_experts, network.parameter_count()));
  for (const std::string& line :
       attention_report(options.network, options.img_size, device, options.common.autocast())) {
    folder.log("attention    " + line);
  }
  folder.log(fmt::format("data         {} training pairs, {} px, batch {} x {}, {}{}\n{}", data.train.size(),
                         options.img_size, options.batch_size, options.accumulation_steps,
                         options.aug == "off" ? "no augmentation" : options.aug + " augmentation",
                         caching ? ", kept in memory" : "", data.report));
  // Weights, gradients, two AdamW moments, and the average: all in f32.
  const int64_t copies = options.use_ema ? 5 : 4;
  folder.log(fmt::format("memory       {} for weights, gradients and optimizer; the first step shows the activations",
                         format_bytes(copies * 4 * network.parameter_count())));
  if (!weights.empty()) {
    folder.log("weights      " + weights);
  } else if (options.stage1_epochs > 0) {
    folder.log(
        "warning: stage 1 freezes a backbone with random weights; use --stage1-epochs 0 --backbone-lr-scale 1 to "
        "train from scratch");
  }
}

std::string expert_table(const std::vector<std::vector<int64_t>>& counts) {
  if (counts.empty()) return {};
  std::string text = fmt::format("{:<12}", "experts");
  for (size_t e = 0; e < counts.front().size(); ++e) {
    text += fmt::format(" {:>9}", kExpertNames[e % kExpertNames.size()]);
  }
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const int64_t total = std::accumulate(counts[layer].begin(), counts[layer].end(), int64_t{0});
    text += fmt::format("\n  stage {:<4}", layer + 1);
    for (const int64_t count : counts[layer]) {
      const double share = 100.0 * static_cast<double>(count) / static_cast<double>(std::max<int64_t>(1, total));
      text += count == 0 ? fmt::format(" {:>9}", "unused") : fmt::format(" {:>7.1f} %", share);
    }
  }
  return text;
}

std::string run_summary(const RunState& state, const TrainOptions& options, const std::string& reason,
                        int64_t peak_bytes) {
  const nlohmann::json* first = nullptr;  // the first and last validation after training
  const nlohmann::json* last = nullptr;
  for (const nlohmann::json& row : state.history) {
    if (row.value("epoch", 0) == 0) continue;
    if (first == nullptr) first = &row;
    last = &row;
  }
  std::string text = fmt::format("done: {} steps in {}, {} epochs, {:.1f} training images/s{}", state.step,
                                 format_duration(state.seconds), state.epoch,
                                 static_cast<double>(state.images) / std::max(state.training_seconds, 1e-9), reason);
  text +=
      fmt::format("\n  {:<11} untrained {:.4f}", options.best_by == "iou" ? "IoU" : "S-measure", state.untrained_score);
  if (last != nullptr) {
    text +=
        fmt::format(", last {:.4f}, best {:.4f} in epoch {}",
                    last->value("val_" + best_score_name(options.best_by), 0.0), state.best.value, state.best.epoch);
    text += fmt::format("\n  loss        {:.4f} at the first validation, {:.4f} at the last", first->value("loss", 0.0),
                        last->value("loss", 0.0));
  }
  if (state.skipped_steps > 0 || state.rollbacks > 0) {
    text += fmt::format("\n  not finite  {} steps skipped, {} rollbacks", state.skipped_steps, state.rollbacks);
  }
  if (!state.scaler.is_null()) {
    text += fmt::format("\n  loss scale  {}; {} steps skipped", state.scaler.value("scale", 0.0),
                        state.scaler.value("skipped", int64_t{0}));
  }
  text += fmt::format("\n  memory      {} at the peak", format_bytes(peak_bytes));
  const std::string best = checkpoint_path(options.checkpoint_dir, "best").string();
  text += fmt::format("\n  best        {}", best);
  text +=
      fmt::format("\n  next        camoxpert evaluate --dataset-path {} --checkpoint {}", options.dataset_path, best);
  return text;
}

}  // namespace camo::app
