// The enhancement in front of the experts: channel attention, then spatial attention.
#pragma once

#include "nn/layers.h"

namespace camo {

/// u = x * sigmoid(W2 relu(W1 GAP(x))); y = u * sigmoid(conv1x1(dw5(u))) + 0.1 x.    x, y: [N, H, W, C]
class SDTABlock : public Module {
 public:
  explicit SDTABlock(int64_t channels);
  Tensor operator()(const Tensor& x) const;

 private:
  Sequential& channel_attention_;
  Sequential& spatial_attention_;
};

}  // namespace camo
