// Work recorded once and launched again without the host's share.
//
// What is recorded must have run before under the same conditions, so that plans, tables and 16-bit copies exist, and
// must not wait for the device or copy from or to the host: that throws, naming the call. A launch uses the addresses
// of the recording again, so inputs and results are tensors that live as long as the graph; operations and layers need
// not know of it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/cuda/allocator.h"
#include "core/device.h"
#include "core/function_ref.h"
#include "core/tensor.h"

namespace camo::cuda {

/// Why graphs with conditions can't be used on this machine; empty when they can.
std::string why_no_graph_conditions();

/// What `work` sends to the compute stream of a device. What lives when it was recorded keeps its memory as long as the
/// graph, except the tensor at `passing`, which work does not use.
class Graph {
 public:
  Graph(Device device, FunctionRef<void()> work, const void* passing = nullptr);
  /// Keeps no memory itself: the caller has a MemoryHold and the tensors that `work` uses.
  static Graph without_hold(Device device, FunctionRef<void()> work);
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  /// Does not wait.
  void launch() const;

 private:
  friend class GraphBuilder;
  explicit Graph(Device device) : device_(device) {}
  void instantiate(cudaGraph_t recorded);
  void hold(const void* passing);

  Device device_;
  cudaGraphExec_t graph_ = nullptr;
  std::unique_ptr<MemoryHold> hold_;
};

/// A graph of steps, each recorded from ordinary work. Steps that no path connects may run side by side.
class GraphBuilder {
 public:
  /// Handle of a step, for those that follow it.
  using Step = std::vector<cudaGraphNode_t>;
  /// A flag on the device that is off when a launch begins.
  using Condition = cudaGraphConditionalHandle;

  explicit GraphBuilder(Device device);
  ~GraphBuilder();
  GraphBuilder(const GraphBuilder&) = delete;
  GraphBuilder& operator=(const GraphBuilder&) = delete;

  /// Runs `work` to record it, behind the steps `after`. Its temporaries come from `memory`: two steps may share a pool
  /// only where one follows the other. What a step of another pool reads must live until the builder is done.
  Step add(MemoryPool& memory, std::span<const Step> after, FunctionRef<void()> work);
  Condition condition();
  /// The same; launches leave it out unless the condition was set by then.
  Step add_if(Condition condition, MemoryPool& memory, std::span<const Step> after, FunctionRef<void()> work);
  /// For use within the work of a step: sets the conditions whose number is among `indices` (i64, contiguous).
  void set_conditions(const std::vector<Condition>& conditions, const Tensor& indices) const;
  /// The builder is spent afterwards. `passing` as for Graph.
  Graph finish(const void* passing = nullptr);

 private:
  Device device_;
  cudaGraph_t graph_ = nullptr;
};

}  // namespace camo::cuda
