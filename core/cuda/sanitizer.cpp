#include "core/cuda/sanitizer.h"

#include <nvtx3/nvToolsExtMem.h>
#include <nvtx3/nvToolsExtMemCudaRt.h>

#include <vector>

namespace camo::cuda {

void mark_written(cudaStream_t stream, const void* data, size_t bytes, size_t rows, size_t pitch) {
  static nvtxDomainHandle_t domain = nvtxDomainCreateA("camo");  // null without a tool
  if (domain == nullptr || bytes == 0) return;
  if (pitch == bytes) {
    bytes *= rows;
    rows = 1;
  }
  std::vector<nvtxMemVirtualRangeDesc_t> ranges;
  for (size_t i = 0; i < rows; ++i) ranges.push_back({bytes, static_cast<const char*>(data) + i * pitch});
  nvtxMemMarkInitializedBatch_t batch = {};
  batch.extCompatID = NVTX_EXT_COMPATID_MEM;
  batch.structSize = sizeof batch;
  batch.regionType = NVTX_MEM_TYPE_VIRTUAL_ADDRESS;
  batch.regionDescCount = ranges.size();
  batch.regionDescElementSize = sizeof ranges[0];
  batch.regionDescElements = ranges.data();
  nvtxMemCudaMarkInitialized(domain, stream, 0, &batch);
}

}  // namespace camo::cuda
