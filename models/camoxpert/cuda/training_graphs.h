// CamoXpert's forward and backward as CUDA graphs, but for the experts, for pictures of one shape and precision.
#pragma once

#include <array>
#include <memory>

#include "core/cuda/allocator.h"
#include "models/camoxpert/network.h"
#include "nn/cuda/recorded_function.h"

namespace camo {

/// Four graphs: encode() and decode(), each forward and backward. The experts lie between them, for groups whose sizes
/// differ from step to step; the host waits once, for the choices.
class TrainingGraphs {
 public:
  /// The network is in training mode, has run forward and backward, and outlives this.
  TrainingGraphs(const CamoXpert& network, Device device);
  /// network(x) for pictures of the first call's shape, under its settings (Autocast); see RecordedFunction.
  CamoXpertOutput run(const Tensor& x);
  /// Whether a step, with its backward, was recorded to its end.
  bool is_whole() const { return encode_.is_whole() && decode_.is_whole(); }

 private:
  const CamoXpert& network_;
  std::array<std::shared_ptr<const HostCopy>, 4> choices_;  // that the recorded encoding sends to the host
  Shape pictures_;
  std::shared_ptr<cuda::MemoryPool> memory_;
  RecordedFunction encode_, decode_;
};

}  // namespace camo
