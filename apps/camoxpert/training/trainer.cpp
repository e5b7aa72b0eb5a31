#include "apps/camoxpert/training/trainer.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "apps/camoxpert/attention_report.h"
#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/random.h"
#include "models/camoxpert/checkpoint.h"
#include "models/weights/state.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::app {

namespace {

constexpr size_t kStepsBetweenReads = 10;  // on a GPU: each read waits for it

/// The first part of the test split that validation uses, or the end of the training samples when there is none.
struct DataPlan {
  std::vector<Sample> train, validation;
  std::string report;
  int64_t max_bad_images = 0;  // what --on-bad-image still allows
};

DataPlan plan_data(const TrainOptions& options) {
  const int64_t limit = parse_on_bad_image(options.on_bad_image);
  const Unpaired unpaired = limit > 0 ? Unpaired::collect : Unpaired::refuse;
  DataPlan plan;
  BadImages bad(limit);
  const Dataset train = find_dataset(options.dataset_path, Split::train, unpaired);
  for (const std::string& message : train.unpaired) {
    bad.add(message);
    plan.report += fmt::format("  left out: {}\n", message);
  }
  bad.check();
  plan.max_bad_images = limit - static_cast<int64_t>(train.unpaired.size());
  plan.train = train.samples;
  for (const DatasetSource& source : train.sources) {
    plan.report += fmt::format("  {} pairs in {}\n", source.count, source.images.string());
  }
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
  return plan;
}

}  // namespace

void Trainer::LossMeans::add(const LossMeans& other) {
  if (sums.empty()) sums.resize(other.sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    sums[i] = {other.sums[i].first, sums[i].second + other.sums[i].second};
  }
  count += other.count;
}

std::string Trainer::LossMeans::str() const {
  std::string text;
  for (size_t i = 0; i < sums.size(); ++i)
    text += fmt::format("{}{} {:.4f}", i > 0 ? "  " : "", sums[i].first, mean(i));
  return text;
}

Trainer::Trainer(const TrainOptions& options, const std::string& config_toml) : options_(options) {
  options_.check();
  device_ = options_.common.apply();
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
  if (!options_.pretrained.empty()) {
    pretrained_report_ = load_weights(*network_, options_.pretrained, {.partial = options_.partial}).str();
  }
  network_->to(device_, f32);
  guard_ = zeros({}, f64, device_);
  LoaderOptions loading;
  loading.image_size = options_.img_size;
  loading.batch_size = options_.batch_size;
  loading.workers = options_.num_workers;
  loading.augment = options_.augment;
  loading.raw = device_.is_cuda();
  loading.drop_last = true;
  loading.seed = options_.seed;
  loading.cache_bytes = options_.cache_mb << 20;
  loading.max_bad_images = data.max_bad_images;
  loading.on_bad_image = [this](const std::string& message) { folder_->log("replaced a damaged picture: " + message); };
  loader_ = std::make_unique<DataLoader>(train_samples_, loading);
  batches_ = std::make_unique<DeviceBatches>(*loader_, device_);
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
  folder_->log(fmt::format("device       {}, {}", device_.str(), options_.common.precision(device_)));
  folder_->log(fmt::format("network      CamoXpert on {}, {} experts, {:L} parameters", options_.network.backbone,
                           options_.network.num_experts, network_->parameter_count()));
  for (const std::string& line : attention_report(options_.network, options_.img_size, device_, f32)) {
    folder_->log("attention    " + line);
  }
  folder_->log(fmt::format("data         {} training pairs, {} px, batch {} x {}{}\n{}", train_samples_.size(),
                           options_.img_size, options_.batch_size, options_.accumulation_steps,
                           loader_->is_caching() ? ", kept in memory" : "", data_report_));
  // Weights, gradients, two AdamW moments, and the average: all in f32.
  const int64_t copies = options_.use_ema ? 5 : 4;
  folder_->log(fmt::format("memory       {} for weights, gradients and optimizer; the first step shows the activations",
                           format_bytes(copies * 4 * network_->parameter_count())));
  if (!pretrained_report_.empty()) {
    folder_->log("pretrained   " + pretrained_report_);
  } else if (options_.stage1_epochs > 0) {
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

void Trainer::train_step(int64_t batches) {
  PendingStep pending{
      .step = step_ + 1, .lr = schedule_.lr(stage_step_), .batches = batches, .losses = {}, .gradient_norm = {}};
  optimizer_->zero_grad();
  for (int64_t i = 0; i < batches; ++i) {
    const std::optional<Batch> batch = batches_->next();
    CAMO_ASSERT(batch.has_value());
    const CamoXpertOutput output = (*network_)(batch->images);
    const LossOutput loss = (*loss_)(output, batch->masks);
    for (size_t layer = 0; layer < expert_counts_.size(); ++layer) {
      const std::vector<int64_t>& counts = output.routing[layer].counts;
      for (size_t e = 0; e < counts.size(); ++e) expert_counts_[layer][e] += counts[e];
    }
    backward(loss.total * (1.0 / static_cast<double>(batches)));
    const NoGrad no_grad;
    Tensors values{reshape(loss.total, {1})};
    loss_names_ = {"loss"};
    for (const auto& [name, value] : loss.parts) {
      values.push_back(reshape(value, {1}));
      loss_names_.push_back(name);
    }
    const Tensor row = to(concat(values, 0), f64);
    if (pending.losses.defined()) add_into(pending.losses, row);
    else pending.losses = row;
  }
  pending.gradient_norm = clip_gradients(network_->parameters(), options_.clip_norm);
  add_into(guard_, select(pending.losses, 0, 0));
  add_into(guard_, pending.gradient_norm);
  optimizer_->set_lr(pending.lr);
  optimizer_->step(guard_);
  if (ema_) ema_->update(*network_, guard_);
  pending_.push_back(std::move(pending));
  ++stage_step_;
  ++step_;
}

Trainer::LossMeans Trainer::read_pending(int64_t epoch) {
  LossMeans last;
  for (const PendingStep& pending : std::exchange(pending_, {})) {
    const std::vector<double> values = pending.losses.to_vector<double>();
    const double norm = pending.gradient_norm.item();
    last = {.sums = {}, .count = pending.batches};
    for (size_t i = 0; i < values.size(); ++i) last.sums.emplace_back(loss_names_[i], values[i]);
    const char* const remedy = "; the weights are still those of the step before; lower --lr or --clip-norm";
    CAMO_CHECK_CODE(not_finite, std::isfinite(values[0]), "train: the loss of step ", pending.step, " is ",
                    last.mean(0), remedy);
    CAMO_CHECK_CODE(not_finite, std::isfinite(norm), "train: the gradient of step ", pending.step, " has norm ", norm,
                    remedy);
    epoch_losses_.add(last);
    nlohmann::json row{{"step", pending.step}, {"epoch", epoch + 1}, {"lr", pending.lr}, {"gradient_norm", norm}};
    for (size_t i = 0; i < last.sums.size(); ++i) row[last.sums[i].first] = last.mean(i);
    folder_->add_metrics(row);
  }
  return last;
}

bool Trainer::train_epoch(int64_t epoch, const Stage& stage) {
  network_->train();
  loader_->start_epoch(epoch);
  epoch_losses_ = {};
  expert_counts_.assign(4, std::vector<int64_t>(static_cast<size_t>(options_.network.num_experts), 0));
  const int64_t total = loader_->batches_per_epoch();
  const size_t read_every = device_.is_cuda() ? kStepsBetweenReads : 1;
  Progress progress(fmt::format("epoch {}/{}", epoch + 1, options_.epochs), total * options_.batch_size, "images");
  for (int64_t done = 0; done < total && stage_step_ < stage.steps && !limit_reached();) {
    const int64_t batches = std::min(options_.accumulation_steps, total - done);
    train_step(batches);
    done += batches;
    if (step_ > 1 && pending_.size() < read_every) continue;
    const LossMeans losses = read_pending(epoch);
    const std::string peak = format_bytes(memory_stats(device_).peak_bytes);
    if (step_ == 1) folder_->log(fmt::format("memory       {} at the peak of the first step", peak));
    progress.update(done * options_.batch_size,
                    fmt::format("{}  lr {:.1e}  mem {}", losses.str(), optimizer_->lr(), peak));
  }
  read_pending(epoch);
  return !limit_reached();
}

void Trainer::finish_epoch(int64_t epoch, const LossMeans& losses) {
  if (ema_ && epoch > 0) ema_->swap(*network_);
  const EvaluationResult scores = evaluate(*network_, val_samples_,
                                           {.img_size = options_.img_size,
                                            .max_bad_images = parse_on_bad_image(options_.on_bad_image),
                                            .contact_sheet = folder_->sample(fmt::format("epoch_{:03}", epoch))});
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
