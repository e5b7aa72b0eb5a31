#include "core/cuda/graph.h"

#include "core/cuda/runtime.h"

namespace camo::cuda {

Graph::Graph(Device device, FunctionRef<void()> work) : device_(device) {
  cudaStream_t stream = use(device);
  cudaGraph_t recorded = nullptr;
  CAMO_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  try {
    work();
  } catch (...) {  // the stream must not stay in capture
    cudaStreamEndCapture(stream, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    cudaGetLastError();
    throw;
  }
  CAMO_CUDA(cudaStreamEndCapture(stream, &recorded));
  const cudaError_t status = cudaGraphInstantiate(&graph_, recorded, 0);
  cudaGraphDestroy(recorded);
  CAMO_CUDA(status);
}

Graph::~Graph() { cudaGraphExecDestroy(graph_); }

void Graph::launch() const { CAMO_CUDA(cudaGraphLaunch(graph_, use(device_))); }

}  // namespace camo::cuda
