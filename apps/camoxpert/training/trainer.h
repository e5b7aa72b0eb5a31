// The training loop: two stages, accumulation, clipping, one-cycle schedule, validation, checkpoints.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "apps/camoxpert/evaluation.h"
#include "apps/camoxpert/training/run_folder.h"
#include "apps/camoxpert/training/train_options.h"
#include "data/device_batches.h"
#include "models/camoxpert/loss.h"
#include "models/camoxpert/network.h"
#include "nn/optim/adamw.h"
#include "nn/optim/ema.h"
#include "nn/optim/schedule.h"

namespace camo::app {

class Trainer {
 public:
  /// Checks the options, finds the data and builds the network before anything is written.
  /// `config_toml` is the resolved configuration, kept in the run folder.
  Trainer(const TrainOptions& options, const std::string& config_toml);
  /// Trains to the end of the epochs, steps or time.
  void run();

 private:
  /// Epochs with the same trainable parameters and one schedule.
  struct Stage {
    std::string name;
    int64_t first_epoch = 0, end_epoch = 0;
    bool backbone_frozen = false;
    int64_t steps = 0;  // of the schedule
  };
  /// Mean loss parts over batches.
  struct LossMeans {
    std::vector<std::pair<std::string, double>> sums;
    int64_t count = 0;
    void add(const LossMeans& other);
    std::string str() const;
    double mean(size_t part) const { return sums[part].second / static_cast<double>(count); }
  };

  /// A step whose losses may still be computed on the device.
  struct PendingStep {
    int64_t step = 0;
    double lr = 0;
    int64_t batches = 0;
    Tensor losses;         // f64: the total and its parts, summed over the batches
    Tensor gradient_norm;  // f64
  };

  std::vector<Stage> plan_stages() const;
  void report_start();
  void begin_stage(const Stage& stage);
  /// False when a limit of steps or time was reached.
  bool train_epoch(int64_t epoch, const Stage& stage);
  /// One optimizer step over the next batches. Waits for the device only where the mixtures of experts do.
  void train_step(int64_t batches);
  /// Waits for the pending steps, and adds their losses to the epoch's and to the metrics. Returns the last one's.
  /// Throws ErrorCode::not_finite for a step whose loss or gradient was not finite; the weights are those before it.
  LossMeans read_pending(int64_t epoch);
  /// Validates, writes the contact sheet, the checkpoints and the history.
  void finish_epoch(int64_t epoch, const LossMeans& losses);
  bool limit_reached() const;
  double seconds() const;

  TrainOptions options_;
  Device device_;
  std::vector<Sample> train_samples_, val_samples_;
  std::string data_report_, pretrained_report_;
  std::unique_ptr<CamoXpert> network_;
  std::unique_ptr<Loss> loss_;
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<DeviceBatches> batches_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Ema> ema_;
  OneCycleSchedule schedule_;
  int64_t stage_step_ = 0, step_ = 0;
  // Sum of all losses and gradient norms: once it is not finite, no step changes the weights any more.
  Tensor guard_;
  std::vector<std::string> loss_names_;
  std::vector<PendingStep> pending_;
  LossMeans epoch_losses_;
  std::vector<std::vector<int64_t>> expert_counts_;  // [layer][expert], of the epoch
  double best_iou_ = -1, untrained_iou_ = 0;
  int64_t best_epoch_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace camo::app
