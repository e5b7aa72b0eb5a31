#include "apps/camoxpert/trainer.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/random.h"
#include "models/camoxpert/checkpoint.h"
#include "ops/elementwise.h"

namespace camo::app {

namespace {

/// The first part of the test split that validation uses, or the end of the training samples when there is none.
struct DataPlan {
  std::vector<Sample> train, validation;
  std::string report;
};

DataPlan plan_data(const TrainOptions& options) {
  DataPlan plan;
  const Dataset train = find_dataset(options.dataset_path, Split::train);
  plan.train = train.samples;
  for (const DatasetSource& source : train.sources) {
    plan.report += fmt::format("  {} pairs in {}\n", source.count, source.images.string());
  }
  std::vector<Sample> test;
  if (!options.val_path.empty()) {
    test = find_dataset(options.val_path, Split::test).samples;
  } else {
    // What the folders hold besides the training samples; a folder without splits holds nothing else.
    std::set<std::filesystem::path> used;
    for (const Sample& sample : plan.train) used.insert(sample.image);
    for (const Sample& sample : find_dataset(options.dataset_path, Split::all).samples) {
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
  return plan;
}

}  // namespace

void Trainer::LossMeans::add(const LossOutput& loss) {
  if (sums.empty()) {
    sums.emplace_back("loss", 0.0);
    for (const auto& [name, value] : loss.parts) sums.emplace_back(name, 0.0);
  }
  sums[0].second += loss.total.item();
  for (size_t i = 0; i < loss.parts.size(); ++i) sums[i + 1].second += loss.parts[i].second.item();
  ++count;
}

std::string Trainer::LossMeans::str() const {
  std::string text;
  for (size_t i = 0; i < sums.size(); ++i)
    text += fmt::format("{}{} {:.4f}", i > 0 ? "  " : "", sums[i].first, mean(i));
  return text;
}

Trainer::Trainer(const TrainOptions& options, const std::string& config_toml) : options_(options) {
  options_.check();
  options_.common.apply();
  loss_ = make_loss(options_.loss);
  DataPlan data = plan_data(options_);
  train_samples_ = std::move(data.train);
  val_samples_ = std::move(data.validation);
  data_report_ = std::move(data.report);
  CAMO_CHECK_CODE(usage, options_.batch_size <= static_cast<int64_t>(train_samples_.size()),
                  "--batch-size: must be at most ", train_samples_.size(), ", the number of training pairs; got ",
                  options_.batch_size);
  seed_everything(options_.seed);
  network_ = std::make_unique<CamoXpert>(options_.network);
  LoaderOptions loading;
  loading.image_size = options_.img_size;
  loading.batch_size = options_.batch_size;
  loading.workers = options_.num_workers;
  loading.augment = options_.augment;
  loading.drop_last = true;
  loading.seed = options_.seed;
  loading.cache_bytes = options_.cache_mb << 20;
  loading.max_bad_images = options_.max_bad_images;
  loading.on_bad_image = [this](const std::string& message) { folder_->log("replaced a damaged picture: " + message); };
  loader_ = std::make_unique<DataLoader>(train_samples_, loading);
  folder_ = std::make_unique<RunFolder>(options_.checkpoint_dir, config_toml);
  if (options_.use_ema) ema_ = std::make_unique<Ema>(*network_, options_.ema_decay);
}

double Trainer::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

bool Trainer::limit_reached() const {
  return (options_.max_steps > 0 && step_ >= options_.max_steps) ||
         (options_.max_time > 0 && seconds() >= options_.max_time);
}

std::vector<Trainer::Stage> Trainer::plan_stages() const {
  const int64_t per_epoch =
      (loader_->batches_per_epoch() + options_.accumulation_steps - 1) / options_.accumulation_steps;
  int64_t left = options_.max_steps > 0 ? options_.max_steps : options_.epochs * per_epoch;
  std::vector<Stage> stages;
  const auto add = [&](const char* name, int64_t first, int64_t end, bool frozen) {
    const int64_t steps = std::min(left, (end - first) * per_epoch);
    left -= steps;
    if (steps > 0) stages.push_back({name, first, end, frozen, steps});
  };
  add("stage 1, backbone frozen", 0, options_.stage1_epochs, true);
  add(options_.stage1_epochs > 0 ? "stage 2, all weights" : "all weights", options_.stage1_epochs, options_.epochs,
      false);
  return stages;
}

void Trainer::report_start() {
  for (const auto& [key, value] : system_info()) folder_->log(fmt::format("{:<12} {}", key, value));
  folder_->log(fmt::format("network      CamoXpert on {}, {} experts, {:L} parameters", options_.network.backbone,
                           options_.network.num_experts, network_->parameter_count()));
  std::string tokens;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t side = options_.img_size / (4 << stage);
    const int64_t head =
        network_->backbone().spec().dims[static_cast<size_t>(stage)] / options_.network.attention_heads;
    tokens += fmt::format("{}{}x{}", stage > 0 ? ", " : "", side * side, head);
  }
  folder_->log("attention    standard on every stage (tokens x head dim: " + tokens +
               "); flash attention: not in this build");
  folder_->log(fmt::format("data         {} training pairs, {} px, batch {} x {}{}\n{}", train_samples_.size(),
                           options_.img_size, options_.batch_size, options_.accumulation_steps,
                           loader_->is_caching() ? ", kept in memory" : "", data_report_));
  // Weights, gradients, two AdamW moments, and the average: all in f32.
  const int64_t copies = options_.use_ema ? 5 : 4;
  folder_->log(fmt::format("memory       {} for weights, gradients and optimizer; the first step shows the activations",
                           format_bytes(copies * 4 * network_->parameter_count())));
  if (options_.stage1_epochs > 0) {
    folder_->log(
        "warning: stage 1 freezes a backbone with random weights; use --stage1-epochs 0 --backbone-lr-scale 1 to "
        "train from scratch");
  }
}

void Trainer::begin_stage(const Stage& stage) {
  network_->backbone().set_requires_grad(!stage.backbone_frozen);
  optimizer_ = std::make_unique<AdamW>(parameter_groups(*network_, options_.backbone_lr_scale),
                                       AdamWOptions{.lr = options_.lr, .weight_decay = options_.weight_decay});
  schedule_ = {.max_lr = options_.lr, .total_steps = stage.steps, .warmup_fraction = 0.1};
  stage_step_ = 0;
  folder_->log(fmt::format("{}: epochs {} to {}, {} steps, {:L} trainable parameters", stage.name,
                           stage.first_epoch + 1, stage.end_epoch, stage.steps, network_->parameter_count(true)));
}

std::optional<Trainer::LossMeans> Trainer::train_step(int64_t batches) {
  LossMeans losses;
  optimizer_->zero_grad();
  for (int64_t i = 0; i < batches; ++i) {
    const std::optional<Batch> batch = loader_->next();
    CAMO_ASSERT(batch.has_value());
    const CamoXpertOutput output = (*network_)(batch->images);
    const LossOutput loss = (*loss_)(output, batch->masks);
    CAMO_CHECK_CODE(not_finite, std::isfinite(loss.total.item()), "train: the loss of step ", step_ + 1, " is ",
                    loss.total.item(), "; the weights are still those of the step before; lower --lr or --clip-norm");
    losses.add(loss);
    for (size_t layer = 0; layer < expert_counts_.size(); ++layer) {
      const std::vector<int64_t>& counts = output.routing[layer].counts;
      for (size_t e = 0; e < counts.size(); ++e) expert_counts_[layer][e] += counts[e];
    }
    backward(loss.total * (1.0 / static_cast<double>(batches)));
  }
  gradient_norm_ = clip_gradient_norm(network_->parameters(), options_.clip_norm);
  CAMO_CHECK_CODE(not_finite, std::isfinite(gradient_norm_), "train: the gradient of step ", step_ + 1, " has norm ",
                  gradient_norm_, "; the weights are still those of the step before; lower --lr or --clip-norm");
  optimizer_->set_lr(schedule_.lr(stage_step_));
  optimizer_->step();
  if (ema_) ema_->update(*network_);
  ++stage_step_;
  ++step_;
  return losses;
}

bool Trainer::train_epoch(int64_t epoch, const Stage& stage) {
  network_->train();
  loader_->start_epoch(epoch);
  epoch_losses_ = {};
  expert_counts_.assign(4, std::vector<int64_t>(static_cast<size_t>(options_.network.num_experts), 0));
  const int64_t total = loader_->batches_per_epoch();
  Progress progress(fmt::format("epoch {}/{}", epoch + 1, options_.epochs), total * options_.batch_size, "images");
  for (int64_t done = 0; done < total && stage_step_ < stage.steps && !limit_reached();) {
    const int64_t batches = std::min(options_.accumulation_steps, total - done);
    const LossMeans losses = *train_step(batches);
    done += batches;
    if (epoch_losses_.sums.empty()) epoch_losses_.sums.resize(losses.sums.size());
    for (size_t i = 0; i < losses.sums.size(); ++i) {
      epoch_losses_.sums[i] = {losses.sums[i].first, epoch_losses_.sums[i].second + losses.sums[i].second};
    }
    epoch_losses_.count += losses.count;
    nlohmann::json row{
        {"step", step_}, {"epoch", epoch + 1}, {"lr", optimizer_->lr()}, {"gradient_norm", gradient_norm_}};
    for (size_t i = 0; i < losses.sums.size(); ++i) row[losses.sums[i].first] = losses.mean(i);
    folder_->add_metrics(row);
    if (step_ == 1) {
      folder_->log(
          fmt::format("memory       {} at the peak of the first step", format_bytes(memory_stats(cpu).peak_bytes)));
    }
    progress.update(done * options_.batch_size, fmt::format("{}  lr {:.1e}  mem {}", losses.str(), optimizer_->lr(),
                                                            format_bytes(memory_stats(cpu).peak_bytes)));
  }
  return !limit_reached();
}

void Trainer::finish_epoch(int64_t epoch, const LossMeans& losses) {
  if (ema_ && epoch > 0) ema_->swap(*network_);
  const EvaluationResult scores =
      evaluate(*network_, val_samples_,
               {.img_size = options_.img_size, .contact_sheet = folder_->sample(fmt::format("epoch_{:03}", epoch))});
  if (ema_ && epoch > 0) ema_->swap(*network_);
  nlohmann::json row{{"epoch", epoch},
                     {"step", step_},
                     {"val_iou", scores.mean.iou},
                     {"val_mae", scores.mean.mae},
                     {"seconds", seconds()}};
  for (size_t i = 0; i < losses.sums.size(); ++i) row[losses.sums[i].first] = losses.mean(i);
  if (epoch > 0) row["expert_counts"] = expert_counts_;
  folder_->add_epoch(row);
  if (epoch == 0) {
    untrained_iou_ = scores.mean.iou;
    folder_->log(fmt::format("untrained: validation IoU {:.4f}, MAE {:.4f}; answering 'everything': IoU {:.4f}",
                             scores.mean.iou, scores.mean.mae, scores.everything_iou));
    return;
  }
  CheckpointInfo info{
      .spec = options_.network, .img_size = options_.img_size, .epoch = epoch, .step = step_, .iou = scores.mean.iou};
  save_checkpoint(folder_->checkpoint("last"), *network_, ema_.get(), info);
  const bool best = scores.mean.iou > best_iou_;
  if (best) {
    best_iou_ = scores.mean.iou;
    best_epoch_ = epoch;
    save_checkpoint(folder_->checkpoint("best"), *network_, ema_.get(), info);
  }
  folder_->log(fmt::format("epoch {:3}/{}  step {}  {}  |  val IoU {:.4f}  MAE {:.4f}{}  |  {}", epoch, options_.epochs,
                           step_, losses.str(), scores.mean.iou, scores.mean.mae, best ? "  best" : "",
                           format_duration(seconds())));
}

void Trainer::run() {
  start_ = std::chrono::steady_clock::now();
  report_start();
  finish_epoch(0, {});
  bool going = true;
  int64_t images = 0;
  double training_seconds = 0;
  for (const Stage& stage : plan_stages()) {
    if (!going) break;
    begin_stage(stage);
    for (int64_t epoch = stage.first_epoch; going && epoch < stage.end_epoch && stage_step_ < stage.steps; ++epoch) {
      const double before = seconds();
      going = train_epoch(epoch, stage);
      training_seconds += seconds() - before;
      images += epoch_losses_.count * options_.batch_size;
      const bool last = !going || epoch + 1 == stage.end_epoch || stage_step_ == stage.steps;
      if (epoch_losses_.count > 0 && (last || (epoch + 1) % options_.validate_every == 0)) {
        finish_epoch(epoch + 1, epoch_losses_);
      }
    }
  }
  for (size_t layer = 0; layer < expert_counts_.size(); ++layer) {
    folder_->log(fmt::format("experts of stage {} in the last epoch: {} pictures each", layer + 1,
                             fmt::join(expert_counts_[layer], ", ")));
  }
  folder_->log(
      fmt::format("done: {} steps in {}, {:.1f} training images/s; best validation IoU {:.4f} in epoch {} (untrained "
                  "{:.4f}); checkpoints in {}",
                  step_, format_duration(seconds()), static_cast<double>(images) / std::max(training_seconds, 1e-9),
                  best_iou_, best_epoch_, untrained_iou_, (folder_->path() / "checkpoints").string()));
}

}  // namespace camo::app
