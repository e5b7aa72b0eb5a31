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
  /// Records under the settings of the call (Autocast); the network is in training mode and outlives this.
  TrainingGraphs(const CamoXpert& network, const Tensor& x);
  /// network(x) for pictures of the recorded shape; see RecordedFunction.
  CamoXpertOutput run(const Tensor& x);

 private:
  const CamoXpert& network_;
  std::array<std::shared_ptr<const HostCopy>, 4> choices_;  // that the recorded encoding sends to the host
  cuda::MemoryPool encode_memory_, decode_memory_;           // decoding lies between encoding and its backward
  RecordedFunction encode_, decode_;
};

}  // namespace camo
