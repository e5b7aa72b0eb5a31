// Work recorded once and launched again without the host's share.
#pragma once

#include <cuda_runtime_api.h>

#include "core/device.h"
#include "core/parallel.h"

namespace camo::cuda {

/// What `work` sends to the compute stream of a device. It must not wait for the device, and should have run before, so
/// that its memory is cached: a launch uses the memory again that work had when it was recorded, which must not have
/// been given to anything else that lives.
class Graph {
 public:
  Graph(Device device, FunctionRef<void()> work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  /// Does not wait.
  void launch() const;

 private:
  Device device_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace camo::cuda
