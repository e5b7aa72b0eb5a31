// The training loop: stages, epochs, steps, validations, checkpoints, and stopping in between.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/training/data_plan.h"
#include "apps/camoxpert/training/on_nan.h"
#include "apps/camoxpert/training/resume.h"
#include "apps/camoxpert/training/run_folder.h"
#include "apps/camoxpert/training/run_state.h"
#include "apps/camoxpert/training/stages.h"
#include "apps/camoxpert/training/stepper.h"
#include "apps/camoxpert/training/train_options.h"
#include "apps/camoxpert/training/validation.h"

namespace camo::app {

class Trainer {
 public:
  /// Checks the options, finds the data and the checkpoint to go on from, and builds the network before anything is
  /// written. `config_toml` is the resolved configuration, kept in the run folder.
  Trainer(const TrainOptions& options, const std::string& config_toml);

  /// Trains to the end of the epochs, steps or time. Asked to stop by a signal, it saves its state and throws
  /// StoppedBySignal; the same run resumed from there ends with the same bits. A step that is not finite is handled by
  /// --on-nan; ErrorCode::not_finite when that ends the run.
  void run();

  /// Asked after each step and during validation: a signal to stop for, or 0. Default: StopSignals.
  void set_stop_request(std::function<int()> request) { stop_request_ = std::move(request); }
  /// Replaces the loss.
  void set_loss(std::unique_ptr<Loss> loss);

  const RunState& state() const { return state_; }
  const CamoXpert& network() const { return *network_; }

 private:
  void make_loader();
  void make_stepper();
  void restore(const ResumePoint& point);
  void run_stages();
  void begin_stage(const Stage& stage);
  std::unique_ptr<AdamW> make_optimizer() const;
  /// From where the state stands to the end of the epoch or stage, or to the limit of time.
  void train_epoch(const Stage& stage);
  /// Validates when it is time to, and moves the state to the next epoch when this one is complete.
  void end_epoch(const Stage& stage);
  /// Waits for the pending steps and books them. Handles a bad one.
  void read_steps();
  void book(const StepReport& report);
  void handle(const BadStep& bad);
  void skip_overflow(const BadStep& bad);
  void roll_back();
  /// Validates, writes pictures, history and checkpoints.
  void validate_now();
  void save(const char* name);
  void stop_if_asked();
  /// Throws StoppedBySignal.
  [[noreturn]] void save_and_stop(int signal);
  bool epoch_done(const Stage& stage) const;
  bool stopped_early() const;
  bool is_last_stage() const { return state_.stage + 1 == static_cast<int64_t>(stages_.size()); }
  void show_progress(Progress& progress, const Stage& stage) const;
  double seconds() const;

  TrainOptions options_;
  OnNan on_nan_;
  std::string config_;
  Device device_;
  DType autocast_ = f32;
  DataPlan data_;
  std::unique_ptr<CamoXpert> network_;
  std::unique_ptr<Loss> loss_;
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<DeviceBatches> batches_;
  std::unique_ptr<Ema> ema_;
  std::unique_ptr<Stepper> stepper_;
  std::unique_ptr<RunFolder> folder_;
  std::vector<Stage> stages_;
  std::function<int()> stop_request_;
  std::string weights_report_;          // where they come from; empty: random
  std::vector<std::string> warnings_;   // of resuming, until there is a log
  std::set<std::string> reported_bad_;  // messages of pictures that the validation leaves out

  RunState state_;
  StateDict restored_optimizer_;  // until the stage begins
  bool resumed_ = false;
  bool saves_at_once_ = false;  // the folder's last checkpoint is not the one that this run goes on from
  bool out_of_time_ = false;
  int64_t rollbacks_in_a_row_ = 0;  // without a new checkpoint that holds new steps
  bool progressed_ = false;         // since the last rollback
  LossMeans shown_;                 // losses of the last step that was read
  double seconds_before_ = 0;       // of the run, before this process
  std::chrono::steady_clock::time_point start_;
};

}  // namespace camo::app
