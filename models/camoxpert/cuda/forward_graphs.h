// CamoXpert's forward pass as CUDA graphs, for pictures of one shape, dtype and precision.
#pragma once

#include <array>
#include <memory>

#include "models/camoxpert/network.h"

namespace camo {

class ForwardGraphs {
 public:
  virtual ~ForwardGraphs() = default;
  /// Logits of pictures of the recorded shape, in memory that the next call overwrites.
  virtual Tensor run(const Tensor& x) = 0;
  /// What the layers decided in the last run; may wait for the device.
  virtual std::array<RoutingReport, 4> routing() = 0;
};

/// One picture: a single graph, in which each expert is a part with a condition that the gate's result sets on the
/// device. Nothing waits for the host, and the experts of all layers run side by side. Several pictures, or a driver
/// without conditions: a graph up to the choices, which the host reads once, a graph for each expert and number of
/// pictures (recorded when it is first needed), and a graph of the sums and the decoder.
///
/// Records under the settings of the call (Autocast, NoGrad); the network is in evaluation mode and outlives the
/// result.
std::unique_ptr<ForwardGraphs> record_forward(const CamoXpert& network, const Tensor& x);

}  // namespace camo
