// Mixed precision: inside an Autocast scope, products of f32 tensors run in 16 bit; parameters stay f32.
//
//   { const Autocast scope(bf16); loss = criterion(network(x), target); }
//   backward(loss.total);
//
// The policy, in full (16-bit means the scope's dtype; only f32 and 16-bit tensors are concerned):
//
//   linear, matmul, conv2d, attention   operands rounded to 16 bit, sums in f32, result 16-bit
//   layer_norm                          statistics in f32, result 16-bit, parameters f32
//   batch_norm                          statistics in f32, result of x's dtype, parameters f32
//   add, mul, ... and concat            of operands that differ: the wider dtype
//   scaled_residual                     f32 as soon as one operand is: a residual stream keeps its precision
//   everything else                     in the dtype of its input; sums inside always in f32
//
// The losses convert to f32 themselves. Gradients have the dtype of what they belong to: f32 for parameters. In f16 the
// small ones vanish unless the loss is scaled: nn/optim/grad_scaler.h.
#pragma once

#include "core/tensor.h"

namespace camo {

/// Sets the dtype of products on this thread: bf16 or f16, or f32 to leave them alone inside a 16-bit scope (16-bit
/// operands are then converted to f32). Scopes nest.
class Autocast {
 public:
  explicit Autocast(DType dtype);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  DType previous_;
  bool was_active_;
};

bool autocast_active();
/// The dtype of the innermost scope; f32 outside of all.
DType autocast_dtype();

}  // namespace camo
