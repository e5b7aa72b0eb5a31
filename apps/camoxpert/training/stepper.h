// Optimizer steps: forward and backward passes over a few batches, clipping, AdamW, the moving average.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/camoxpert/training/loss_means.h"
#include "core/random.h"
#include "data/device_batches.h"
#include "models/camoxpert/loss.h"
#include "models/camoxpert/network.h"
#include "models/camoxpert/training_runner.h"
#include "nn/optim/adamw.h"
#include "nn/optim/ema.h"
#include "nn/optim/grad_scaler.h"

namespace camo::app {

/// Where a step stands in the run: `first_batch` is its first batch's number in the epoch.
struct StepPlan {
  int64_t step = 0, stage_step = 0;  // numbers after this step
  int64_t epoch = 0, first_batch = 0, batches = 1;
  double lr = 0;
};

/// What a step did, once its numbers are on the host.
struct StepReport {
  StepPlan plan;
  LossMeans losses;
  double gradient_norm = 0;
  double loss_scale = 1;
  std::vector<std::vector<int64_t>> expert_counts;  // [layer][expert]
};

/// A step whose loss or gradient was not finite. It changed nothing.
struct BadStep {
  StepPlan plan;
  bool overflow = false;    // only the scaled gradients: the next step has a smaller scale
  std::string reason;       // "the loss is nan; the first non-finite tensor is ..."
  RandomKey before, after;  // states of default_generator()
};

struct StepOptions {
  double clip_norm = 1;
  DType autocast = f32;       // of the passes; f16 has its loss scaled
  double loss_scale = 65536;  // the first one
  CudaGraphs cuda_graphs = CudaGraphs::automatic;
};

/// After so many steps the pending ones should be read: on a GPU each read waits for it.
size_t steps_between_reads(Device device);

class Stepper {
 public:
  /// All must outlive the stepper; `ema` may be null.
  Stepper(CamoXpert& network, const Loss& loss, DataLoader& loader, DeviceBatches& batches, Ema* ema,
          const StepOptions& options);

  /// The optimizer of the following steps. No step may be pending.
  void set_optimizer(std::unique_ptr<AdamW> optimizer);
  AdamW* optimizer() const { return optimizer_.get(); }
  /// Whether the last batch was launched as CUDA graphs.
  bool used_graphs() const { return runner_.used_graphs(); }
  /// Why they were given up; empty while they were not. For lack of memory `automatic` goes on without them.
  const std::string& graphs_given_up() const { return graphs_given_up_; }
  /// Of f16, else null. Counts pending steps as taken.
  GradScaler* scaler() { return scaler_ ? &*scaler_ : nullptr; }

  /// Queues a step over the loader's next batches. Waits for the device only where the mixtures of experts do: its
  /// numbers stay pending. A step that is not finite, and those queued after it, change no weights.
  void run(const StepPlan& plan);
  size_t pending() const { return pending_.size(); }

  struct Outcome {
    std::vector<StepReport> reports;  // of the finite steps
    std::optional<BadStep> bad;       // the first step that was not finite
  };
  /// Waits for the pending steps. After a bad one everything is as if it and the steps queued behind it had not run,
  /// except that the loader and default_generator() stand behind the bad step.
  Outcome read();

 private:
  struct Pending {
    StepPlan plan;
    Tensor losses;         // f64: the total and its parts, summed over the batches
    Tensor gradient_norm;  // f64
    Tensor statistics;     // f64: the sum of all running statistics after the step
    std::vector<std::vector<int64_t>> expert_counts;
    // For going back to before the step.
    RandomKey before, after;
    std::optional<GradScaler> scaler;
    std::vector<int64_t> optimizer_steps;
    Tensor buffers;    // joined()
    Tensors counters;  // whole numbers, on the host
  };
  /// Gradients of the batches, summed; fills the pending step's losses and counts.
  void accumulate(Pending& pending);
  /// The same; again without graphs where memory does not last for them.
  void accumulate_or_give_graphs_up(Pending& pending);
  BadStep go_back(const Pending& bad, const std::string& what, bool overflow);
  /// Names the first tensor that is not finite when the step is repeated.
  std::string search(const Pending& bad);
  void restore_buffers(const Pending& pending) const;

  CamoXpert& network_;
  TrainingRunner runner_;
  const Loss& loss_;
  DataLoader& loader_;
  DeviceBatches& batches_;
  Ema* ema_;
  StepOptions options_;
  std::optional<GradScaler> scaler_;
  std::unique_ptr<AdamW> optimizer_;
  Tensors buffers_;   // the network's floating ones: running statistics of batch norms
  Tensors counters_;  // its other ones: batches that they have seen
  // Sum of all losses, gradient norms and running statistics: once it is not finite, no step changes the weights any
  // more.
  Tensor guard_;
  std::vector<std::string> loss_names_;
  std::vector<Pending> pending_;
  std::string graphs_given_up_;
};

}  // namespace camo::app
