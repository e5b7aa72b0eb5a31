// Adding to gradients in place. backward() sums the gradients of a tensor that several operations used. A Node that can
// add its own to the sum as it computes it spares a pass over both:
//
//   Tensors backward(const Tensors& dy) override {
//     const GradientSum dx(*this, 0, x_shape, dtype, device);
//     gemm(..., dx.tensor, dx.adds);                      // dx.tensor = or += ...
//     return {dx.tensor};
//   }
//
// A Node that does not ask returns a new tensor, and backward() adds it: the same sum in the same order.
#pragma once

#include "core/error.h"
#include "core/tensor.h"

namespace camo {

class Node;

/// For the node whose backward() runs: the sum so far of the gradients of its input i, laid out as a new tensor, which
/// it must add its own to and return as its gradient of that input. Undefined where there is none yet, where others see
/// its memory, at the second call, and for other nodes.
Tensor take_gradient_sum(const Node& node, int i);

/// Where Node::backward writes the gradient of an input: the sum so far, or a new tensor that is not initialised.
struct GradientSum {
  Tensor tensor = {};
  bool adds = false;

  GradientSum(const Node& node, int i, const Shape& shape, DType dtype, Device device)
      : tensor(take_gradient_sum(node, i)), adds(tensor.defined()) {
    if (!adds) tensor = empty(shape, dtype, device);
    CAMO_ASSERT(tensor.shape() == shape && tensor.dtype() == dtype);
  }
};

}  // namespace camo
