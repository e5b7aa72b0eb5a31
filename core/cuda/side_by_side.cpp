#include "core/cuda/side_by_side.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/cuda/allocator.h"
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace camo::cuda {

namespace {

/// What the next recorded work of a stream waits for.
struct Dependencies {
  std::vector<cudaGraphNode_t> nodes;
  std::vector<cudaGraphEdgeData> edges;

  static Dependencies of(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaGraphNode_t* nodes = nullptr;
    const cudaGraphEdgeData* edges = nullptr;
    size_t count = 0;
    CAMO_CUDA(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, &edges, &count));
    CAMO_CHECK_CODE(device, status == cudaStreamCaptureStatusActive,
                    "graph: recording was broken off; the work did what a recording can't hold");
    Dependencies found{{nodes, nodes + count}, std::vector<cudaGraphEdgeData>(count)};
    if (edges != nullptr) std::copy_n(edges, count, found.edges.begin());
    return found;
  }
  void set(cudaStream_t stream) {
    CAMO_CUDA(cudaStreamUpdateCaptureDependencies(stream, nodes.data(), edges.data(), nodes.size(),
                                                  cudaStreamSetCaptureDependencies));
  }
  /// Each node once.
  void add(const Dependencies& other) {
    for (size_t i = 0; i < other.nodes.size(); ++i) {
      if (std::find(nodes.begin(), nodes.end(), other.nodes[i]) != nodes.end()) continue;
      nodes.push_back(other.nodes[i]);
      edges.push_back(other.edges[i]);
    }
  }
};

bool is_wanted() {  // for measurements
  static const bool wanted = [] {
    const char* value = std::getenv("CAMO_FORK");
    return value == nullptr || std::string_view(value) != "0";
  }();
  return wanted;
}

}  // namespace

// One stream records all branches, each from the same place: in a graph only what waits for what counts, not the stream
// that it was recorded from.
void record_side_by_side(Device device, std::initializer_list<FunctionRef<void()>> branches) {
  cudaStream_t stream = use(device);
  Dependencies start = Dependencies::of(stream);
  if (start.nodes.empty() || !is_wanted()) {  // there is no place yet to begin at
    for (const FunctionRef<void()>& branch : branches) branch();
    return;
  }
  BranchMemory memory(device);
  Dependencies ends;
  for (const FunctionRef<void()>& branch : branches) {
    start.set(stream);
    memory.next_branch();
    branch();
    const Dependencies end = Dependencies::of(stream);
    if (end.nodes != start.nodes) ends.add(end);  // it queued something
  }
  if (!ends.nodes.empty()) ends.set(stream);
}

}  // namespace camo::cuda
