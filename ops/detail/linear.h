// linear() with copies of its parameters.
#pragma once

#include "core/tensor.h"

namespace camo::detail {

/// A weight or bias: the tensor in the graph, and the copy of it to compute with (itself, or one in 16 bit).
struct Operand {
  Tensor parameter, value;
};

/// linear(x, weight, bias), the gradients of the parameters in their own dtype. Without Autocast's conversions.
Tensor linear(const Tensor& x, const Operand& weight, const Operand& bias);

}  // namespace camo::detail
