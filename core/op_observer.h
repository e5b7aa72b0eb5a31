// Watching operations as they are recorded and as their gradients run: for profilers, and for tools that look for
// trouble. Scopes name parts of a network.
#pragma once

#include <span>

#include "core/autograd.h"

namespace camo {

/// Calls come on the thread that computes, each after the work it speaks of was issued (on a GPU: not yet done).
class OpObserver {
 public:
  virtual ~OpObserver() = default;
  /// The forward of `node` was computed.
  virtual void recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) = 0;
  /// The backward of `node` is about to be computed, and was computed. Those of a checkpoint() nest.
  virtual void backward_begins(const Node& node) = 0;
  virtual void backward_ended(const Node& node) = 0;
  /// The gradients of a node's inputs, before they go on, or the sums that the node added them to (gradient_sum.h);
  /// those of inputs that need none may be undefined.
  virtual void differentiated(const Node& node, std::span<const Tensor> gradients);
};

/// The observer of this thread; null: none. It must outlive its use.
void observe_ops(OpObserver* observer);
OpObserver* op_observer();

/// A named part of a computation on this thread, and a range of that name in profiler timelines (NVTX).
class OpScope {
 public:
  explicit OpScope(const char* name);
  ~OpScope();
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

 private:
  const char* before_;
};
/// The name of the innermost scope; empty outside.
const char* op_scope();

}  // namespace camo
