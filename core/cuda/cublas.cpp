#include "core/cuda/cublas.h"

#include <map>
#include <mutex>

#include "core/error.h"

namespace camo::cuda {

void check(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const ErrorCode code = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::device;
  fail(code, "cublas: ", call, " failed at ", file, ":", line, ": ", cublasLtGetStatusString(status), " (",
       cublasLtGetStatusName(status), ")");
}

cublasLtHandle_t cublas_handle(Device device) {
  static std::mutex mutex;
  static auto* handles = new std::map<int, cublasLtHandle_t>;  // not freed: the driver may be gone before statics are
  use(device);
  std::lock_guard lock(mutex);
  const auto found = handles->find(device.index);
  if (found != handles->end()) return found->second;
  cublasLtHandle_t handle = nullptr;
  CAMO_CUBLAS(cublasLtCreate(&handle));
  handles->emplace(device.index, handle);
  return handle;
}

}  // namespace camo::cuda
