// A differentiable function as two CUDA graphs, one for its forward and one for its backward.
//
//   cuda::MemoryPool memory(device);
//   RecordedFunction head("head", network, [&](const Tensors& in) { return Tensors{layers(in[0])}; }, {x}, memory, memory);
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

  /// Records `fn`, which may use parameters and buffers of `module` besides its inputs and draw dropout masks, under the
  /// settings of the call (Autocast; gradients are on). `inputs` are examples: shapes, dtypes and which of them require
  /// a gradient count. Random numbers, batch counts and gradients are afterwards as before.
  ///
  /// The forward takes its memory from `forward_memory`, with what it saves for the backward; the backward takes its own
  /// from `backward_memory`. They may be one pool. Else the latter may serve functions, too, whose forward and backward
  /// both run between this one's. Nothing else may use either while this lives.
  RecordedFunction(const char* name, const Module& module, const Function& fn, const Tensors& inputs,
                   cuda::MemoryPool& forward_memory, cuda::MemoryPool& backward_memory);
  ~RecordedFunction();
  RecordedFunction(const RecordedFunction&) = delete;
  RecordedFunction& operator=(const RecordedFunction&) = delete;

  /// What fn(inputs) returns, with its random numbers, batch counts and running statistics. The next call overwrites the
  /// results; the backward of a call must come before it (else it throws). Gradients of parameters that had none before
  /// lie in memory of the recording, and are moved out of it by the next call, which must come before that of any other
  /// function that shares the memory: zero_grad() spares that. Hooks of gradients are not called. Throws where inputs
  /// differ from the examples in shape or dtype.
  Tensors operator()(const Tensors& inputs);
  /// Handles of the results' memory, outside of any graph. Before the first call it is not initialised.
  const Tensors& results() const;

 private:
  class Recording;
  std::shared_ptr<Recording> recording_;
};

}  // namespace camo
