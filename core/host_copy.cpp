#include "core/host_copy.h"

#include <utility>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/index_fault.h"
#include "core/cuda/recording.h"
#include "core/cuda/runtime.h"
#endif

namespace camo {

#ifdef CAMO_WITH_CUDA

/// Pinned memory for a copy, and when it is there.
struct HostCopy::Landing {
  Landing(int64_t bytes, Device of) : memory(bytes), device(of) {}
  cuda::PinnedBuffer memory;
  Device device;  // the current one, whose streams alone may record the event
  cuda::Event arrived;

  /// Pinning memory takes longer than many steps of a network: those that are free.
  static std::vector<std::unique_ptr<Landing>>& spare() {
    thread_local auto* all = new std::vector<std::unique_ptr<Landing>>;  // not freed: the driver may be gone by then
    return *all;
  }
  static std::unique_ptr<Landing> take(int64_t bytes, Device device) {
    std::vector<std::unique_ptr<Landing>>& all = spare();
    for (auto it = all.begin(); it != all.end(); ++it) {
      if ((*it)->memory.bytes() != bytes || (*it)->device != device) continue;
      std::unique_ptr<Landing> found = std::move(*it);
      all.erase(it);
      return found;
    }
    return std::make_unique<Landing>(bytes, device);
  }
};

HostCopy::HostCopy(const Tensor& x) : source_(x.detach()) {
  CAMO_CHECK(x.dtype() == i64 && x.is_contiguous(), "host copy: needs contiguous i64; got ", x.dtype(), " ", x.shape());
  if (x.device().is_cpu() || x.numel() == 0) return;
  const int64_t bytes = x.numel() * size_in_bytes(i64);
  constexpr int64_t kPage = 4096;  // of landings, so that other numbers of numbers find them too
  cudaStream_t stream = cuda::use(x.device());
  landing_ = Landing::take((bytes + kPage - 1) / kPage * kPage, x.device());
  CAMO_CUDA(cudaMemcpyAsync(landing_->memory.data(), x.raw_data(), static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                            stream));
  landing_->arrived.record(stream);
}

HostCopy::~HostCopy() {
  constexpr size_t kMostSpare = 64;
  if (landing_ != nullptr && Landing::spare().size() < kMostSpare) Landing::spare().push_back(std::move(landing_));
}

std::vector<int64_t> HostCopy::wait() const {
  if (landing_ == nullptr) return source_.to_vector<int64_t>();
  cuda::refuse_recording("a wait for a copy to the host");
  landing_->arrived.synchronize();
  cuda::check_index_fault(source_.device());
  const auto* values = static_cast<const int64_t*>(landing_->memory.data());
  return {values, values + source_.numel()};
}

#else

struct HostCopy::Landing {};
HostCopy::HostCopy(const Tensor& x) : source_(x.detach()) {
  CAMO_CHECK(x.dtype() == i64 && x.is_contiguous(), "host copy: needs contiguous i64; got ", x.dtype(), " ", x.shape());
}
HostCopy::~HostCopy() = default;
std::vector<int64_t> HostCopy::wait() const { return source_.to_vector<int64_t>(); }

#endif

}  // namespace camo
