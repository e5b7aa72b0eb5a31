// Indices out of range on a device. A kernel can't throw: it notes the first bad index in memory that the host sees and
// goes on with index 0, and the host throws at the next launch or when it next waits for the device.
#pragma once

#include "core/cuda/runtime.h"

namespace camo::cuda {

struct IndexFault {
  // On the device: not 0 once a thread writes the note. GPUs behind PCI Express have no atomic operations on the
  // host's memory.
  unsigned int* claimed = nullptr;
  int complete = 0;
  long long position = 0, extent = 0;
  const char* op = nullptr;  // a literal of the host
};

/// The note of a device, for its kernels.
IndexFault* index_fault(Device device);
/// Throws ErrorCode::general when a kernel that is done has noted an index, and clears the note.
void check_index_fault(Device device);

#ifdef __CUDACC__
/// `position`, or 0 with a note where it lies outside of [0, extent), which is not empty. `op` comes from the host: a
/// literal in a kernel lies on the device.
__device__ inline int64_t checked_index(int64_t position, int64_t extent, const char* op, IndexFault* fault) {
  if (position >= 0 && position < extent) return position;
  if (atomicCAS(fault->claimed, 0u, 1u) == 0u) {
    fault->position = position;
    fault->extent = extent;
    fault->op = op;
    __threadfence_system();
    *static_cast<volatile int*>(&fault->complete) = 1;
  }
  return 0;
}
#endif

}  // namespace camo::cuda
