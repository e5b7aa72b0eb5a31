#include "core/cuda/graph.h"

#include <utility>

#include "core/cuda/recording.h"
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace camo::cuda {

namespace {

/// Records what is sent to the compute stream between construction and finish().
class Capture {
 public:
  /// Into a graph of its own.
  explicit Capture(Device device) : stream_(use(device)), previous_(set_recording(true)) {
    begin([&] { CAMO_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed)); });
  }
  /// Into `graph`, behind these nodes.
  Capture(Device device, cudaGraph_t graph, const std::vector<cudaGraphNode_t>& after)
      : stream_(use(device)), previous_(set_recording(true)), owns_graph_(false) {
    begin([&] {
      CAMO_CUDA(cudaStreamBeginCaptureToGraph(stream_, graph, after.data(), nullptr, after.size(),
                                              cudaStreamCaptureModeRelaxed));
    });
  }
  ~Capture() {
    if (active_) {  // the stream must not stay in capture
      cudaGraph_t graph = nullptr;
      cudaStreamEndCapture(stream_, &graph);
      if (owns_graph_ && graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
    }
    set_recording(previous_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// What the next work of the stream would follow.
  std::vector<cudaGraphNode_t> leaves() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaGraphNode_t* nodes = nullptr;
    const cudaGraphEdgeData* edges = nullptr;
    size_t count = 0;
    CAMO_CUDA(cudaStreamGetCaptureInfo(stream_, &status, nullptr, nullptr, &nodes, &edges, &count));
    CAMO_CHECK_CODE(device, status == cudaStreamCaptureStatusActive,
                    "graph: recording was broken off; the work did what a recording can't hold");
    return {nodes, nodes + count};
  }
  cudaGraph_t finish() {
    active_ = false;
    cudaGraph_t graph = nullptr;
    CAMO_CUDA(cudaStreamEndCapture(stream_, &graph));
    return graph;
  }

 private:
  template <class Begin>
  void begin(Begin start) {
    try {
      start();
    } catch (...) {
      set_recording(previous_);
      throw;
    }
  }

  cudaStream_t stream_;
  bool previous_;
  bool owns_graph_ = true;
  bool active_ = true;
};

std::vector<cudaGraphNode_t> joined(std::span<const GraphBuilder::Step> steps) {
  std::vector<cudaGraphNode_t> nodes;
  for (const GraphBuilder::Step& step : steps) nodes.insert(nodes.end(), step.begin(), step.end());
  return nodes;
}

}  // namespace

std::string why_no_graph_conditions() {
  constexpr int kLeast = 12040;  // the first driver whose conditional bodies may be recorded from streams
  int driver = 0;
  CAMO_CUDA(cudaDriverGetVersion(&driver));
  return driver >= kLeast ? ""
                          : concat_text("the NVIDIA driver is for CUDA ", driver / 1000, ".", driver % 1000 / 10,
                                        ", conditions in graphs need 12.4");
}

Graph::Graph(Device device, FunctionRef<void()> work, const void* passing) : device_(device) {
  Capture capture(device);
  work();
  instantiate(capture.finish());
  hold(passing);
}

Graph Graph::without_hold(Device device, FunctionRef<void()> work) {
  Graph result(device);
  Capture capture(device);
  work();
  result.instantiate(capture.finish());
  return result;
}

void Graph::instantiate(cudaGraph_t recorded) {
  const cudaError_t status = cudaGraphInstantiate(&graph_, recorded, 0);
  cudaGraphDestroy(recorded);
  CAMO_CUDA(status);
}

void Graph::hold(const void* passing) { hold_ = std::make_unique<MemoryHold>(device_, passing); }

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}
Graph::Graph(Graph&& other) noexcept
    : device_(other.device_), graph_(std::exchange(other.graph_, nullptr)), hold_(std::move(other.hold_)) {}
Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(graph_, other.graph_);
  std::swap(hold_, other.hold_);
  return *this;
}

void Graph::launch() const { CAMO_CUDA(cudaGraphLaunch(graph_, use(device_))); }

GraphBuilder::GraphBuilder(Device device) : device_(device) {
  use(device);
  CAMO_CUDA(cudaGraphCreate(&graph_, 0));
}
GraphBuilder::~GraphBuilder() {
  if (graph_ != nullptr) cudaGraphDestroy(graph_);
}

GraphBuilder::Step GraphBuilder::add(MemoryPool& memory, std::span<const Step> after, FunctionRef<void()> work) {
  const MemoryPool::Scope scope(memory);
  Capture capture(device_, graph_, joined(after));
  work();
  Step leaves = capture.leaves();
  capture.finish();
  return leaves;
}

GraphBuilder::Condition GraphBuilder::condition() {
  Condition made{};
  CAMO_CUDA(cudaGraphConditionalHandleCreate(&made, graph_, 0, cudaGraphCondAssignDefault));
  return made;
}

GraphBuilder::Step GraphBuilder::add_if(Condition condition, MemoryPool& memory, std::span<const Step> after,
                                        FunctionRef<void()> work) {
  cudaGraphNodeParams parameters{};
  parameters.type = cudaGraphNodeTypeConditional;
  parameters.conditional.handle = condition;
  parameters.conditional.type = cudaGraphCondTypeIf;
  parameters.conditional.size = 1;
  const std::vector<cudaGraphNode_t> nodes = joined(after);
  cudaGraphNode_t node = nullptr;
  CAMO_CUDA(cudaGraphAddNode(&node, graph_, nodes.data(), nullptr, nodes.size(), &parameters));
  const MemoryPool::Scope scope(memory);
  Capture capture(device_, parameters.conditional.phGraph_out[0], {});
  work();
  capture.finish();
  return {node};
}

Graph GraphBuilder::finish(const void* passing) {
  Graph result(device_);
  result.instantiate(std::exchange(graph_, nullptr));
  result.hold(passing);
  return result;
}

}  // namespace camo::cuda
