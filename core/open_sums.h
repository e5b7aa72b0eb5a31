// How backward() offers sums to take_gradient_sum().
#pragma once

#include "core/gradient_sum.h"

namespace camo {

/// While it lives, `node` may take `sums`, one for each of its inputs, on this thread.
class OpenSums {
 public:
  OpenSums(const Node& node, Tensors& sums);
  ~OpenSums();
  OpenSums(const OpenSums&) = delete;
  OpenSums& operator=(const OpenSums&) = delete;

 private:
  friend Tensor take_gradient_sum(const Node& node, int i);
  const Node& node_;
  Tensors& sums_;
  OpenSums* before_;
};

}  // namespace camo
