// What camoxpert bench times with a whole network: training steps and forward passes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "apps/camoxpert/training/train_options.h"

namespace camo::app {

/// Settings of training, one batch a step, without a cache of pictures.
TrainOptions single_steps();

struct NetworkBenchOptions {
  // Of its settings those that a single step has; attention_heads 0 stands for the usual number. Without a dataset_path
  // steps are over the same random pictures again and again.
  TrainOptions train = single_steps();
  bool trains = true;  // else a forward pass
  int warmup = 3, steps = 10;
  double max_time = 0;           // seconds
  std::vector<int64_t> experts;  // that run; empty: those that the gates choose
  bool group_plans = true;
  bool profile = false;
  int profile_steps = 5;  // over which a GPU's idle time is taken
  int rows = 5;           // of the breakdown by operation

  /// Throws ErrorCode::usage naming the flag.
  void check() const;
};

/// Told what the work since the last mark was.
using Mark = std::function<void(const char* name, const char* family)>;

class Workload {
 public:
  virtual ~Workload() = default;
  /// Once; may leave work queued.
  virtual void run() = 0;
  /// Waits for what is queued; a number of the last result.
  virtual double finish() = 0;
  /// Once, so that all operations are seen by observers (those of inference otherwise are not), with marks in between.
  virtual void run_recorded(const Mark& mark) = 0;
  /// Waiting for pictures, so far.
  virtual double seconds_waited() const { return 0; }
  virtual bool used_graphs() const { return false; }
  /// [stage][expert], of the last run over random pictures that was a training step or recorded; else empty.
  virtual std::vector<std::vector<int64_t>> pictures_per_expert() const { return {}; }
};

/// Steps over random pictures, steps as Trainer does them with the pictures of dataset_path, or forward passes over
/// random pictures. On a GPU the expert groups' plans are made here.
std::unique_ptr<Workload> make_workload(const NetworkBenchOptions& options, Device device);

}  // namespace camo::app
