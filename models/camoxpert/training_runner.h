// Forward passes that are to be differentiated: what training runs, on a GPU mostly as CUDA graphs.
//
// A step sends some 2500 kernels, which takes the host as long as they run. All but the experts is the same in each
// step but for the numbers: the network's own code for it is recorded as it is (nn/cuda/recorded_function.h), forward
// and backward.
#pragma once

#include <memory>
#include <vector>

#include "models/camoxpert/inference_runner.h"
#include "models/camoxpert/network.h"

namespace camo {

class TrainingGraphs;

class TrainingRunner {
 public:
  /// `automatic` records the third batch of a size. Settings such as allow_tf32() must not change afterwards.
  explicit TrainingRunner(const CamoXpert& network, CudaGraphs graphs = CudaGraphs::automatic);
  ~TrainingRunner();
  TrainingRunner(const TrainingRunner&) = delete;
  TrainingRunner& operator=(const TrainingRunner&) = delete;

  /// network(x), with the same bits, random numbers and gradients. With graphs, results and gradients lie in memory
  /// that the next call overwrites, and backward() must come before it. The loss uses the same results in each step;
  /// the batches before the recorded one were differentiated. Eager on other sizes than the recorded one, without
  /// gradients or with those of pictures, in evaluation mode, with gradient checkpointing, and while operations are
  /// observed.
  CamoXpertOutput operator()(const Tensor& x);
  /// Whether the last call was launched as graphs.
  bool used_graphs() const { return used_graphs_; }
  /// Gives the memory of the graphs back and runs all that follows eagerly.
  void turn_graphs_off();

 private:
  struct Handle {
    const void* data;
    bool requires_grad;
    bool operator==(const Handle&) const = default;
  };
  /// What a recording holds fast.
  struct State {
    std::vector<Handle> tensors;  // parameters and buffers
    std::vector<bool> training;   // modes of all modules
    double dropout = 0;
    bool operator==(const State&) const = default;
  };
  bool may_record(const Tensor& x) const;
  /// Ends a recording whose parameters have moved, or are trained where they were not, or whose modules changed modes.
  void forget_if_state_changed();
  void end_recording();

  const CamoXpert& network_;
  CudaGraphs mode_;
  Tensors tensors_;  // parameters and buffers
  State recorded_;
  Shape shape_;  // of the last eager batch, or the recorded one
  DType dtype_ = f32, autocast_ = f32;
  int calls_ = 0;  // of that shape
  bool used_graphs_ = false;
  std::unique_ptr<TrainingGraphs> graphs_;
};

}  // namespace camo
