// The gate of a mixture of experts: from a map to one logit per expert.
#pragma once

#include "nn/layers.h"

namespace camo {

/// Three summaries of the map (convolution then mean, mean, maximum), each [N, C/4], joined and mapped to [N, experts].
class ContentAwareGate : public Module {
 public:
  ContentAwareGate(int64_t channels, int64_t experts, double dropout);
  Tensor operator()(const Tensor& x) const;

 private:
  Sequential& spatial_branch_;
  Sequential& channel_branch_;
  Sequential& max_branch_;
  Sequential& fusion_;
};

}  // namespace camo
