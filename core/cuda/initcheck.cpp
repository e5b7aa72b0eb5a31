#include "core/cuda/initcheck.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/cuda/runtime.h"

namespace camo::cuda {

void announce_write(cudaStream_t stream, void* data, size_t bytes, size_t rows, size_t pitch) {
  static const bool wanted = [] {
    const char* value = std::getenv("CAMO_INITCHECK");
    return value != nullptr && std::string_view(value) == "1";
  }();
  if (wanted) CAMO_CUDA(cudaMemset2DAsync(data, std::max(pitch, bytes), 0, bytes, rows, stream));
}

}  // namespace camo::cuda
