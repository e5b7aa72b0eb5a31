// A differentiable function as two CUDA graphs, one for its forward and one for its backward.
//
//   auto memory = std::make_shared<cuda::MemoryPool>(device);
//   RecordedFunction head("head", network, [&](const Tensors& in) { return Tensors{layers(in[0])}; }, memory);
//   Tensor y = head({x})[0];         // one launch
//   backward(criterion(y, target));  // another, for the gradients of x and of the parameters that the function uses
//
// The layers need not know of it. What must have run before, so that plans, tables and 16-bit copies exist, is the same
// function with inputs of the same shapes, forward and backward.
#pragma once

#include <functional>
#include <memory>

#include "core/cuda/allocator.h"
#include "core/tensor.h"
#include "nn/module.h"

namespace camo {

class RecordedFunction {
 public:
  using Function = std::function<Tensors(const Tensors&)>;

  /// `fn` may use parameters and buffers of `module`, which outlives this and keeps them where they are, besides its
  /// inputs, and draw dropout masks. What lives on the device now keeps its memory as long as this. `name` is a
  /// literal.
  ///
  /// The first call records the forward and the first backward the backward, each under the settings in force then
  /// (Autocast), in memory of the pool. Functions may share a pool where each step runs their forwards and backwards in
  /// the order of the first step, keep_gradients() of all of them before the first; a first step that did not come to
  /// its end is no such step, so that all of them are to be made anew. Nothing else may use it while this lives.
  RecordedFunction(const char* name, const Module& module, Function fn, std::shared_ptr<cuda::MemoryPool> memory);
  ~RecordedFunction();
  RecordedFunction(const RecordedFunction&) = delete;
  RecordedFunction& operator=(const RecordedFunction&) = delete;

  /// What fn(inputs) returns, with its random numbers, batch counts and running statistics. The next call overwrites
  /// the results; the backward of a call must come before it (else it throws). Gradients of parameters that had none
  /// before lie in memory of the recording, and are moved out of it by the next call: zero_grad() spares that. Hooks of
  /// gradients are not called.
  ///
  /// The backward is that of the results that a gradient reaches in the first one: zeros stand for one that none
  /// reaches later, and a gradient of another result throws. So do inputs that differ from those of the first call in
  /// number, shape or dtype or that want a gradient where those did not, and calls from another thread.
  Tensors operator()(const Tensors& inputs);
  /// Moves gradients of parameters out of the memory that the next launches overwrite.
  void keep_gradients();
  /// Whether all is recorded; else the next call records anew.
  bool is_whole() const;

 private:
  class Recording;
  std::shared_ptr<Recording> recording_;
};

}  // namespace camo
