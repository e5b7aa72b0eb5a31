#include "core/storage.h"

#include "core/cpu_allocator.h"
#include "core/error.h"
#include "core/memory_check.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/allocator.h"
#endif

namespace camo {

namespace {

#ifdef CAMO_WITH_CUDA
using cuda::release_cached;
using cuda::reset_peak;
using cuda::stats;
void* allocate(int64_t bytes, Device device) { return cuda::allocate(bytes, device); }
void free_block(void* block, Device device) { cuda::free(block, device); }
#else
[[noreturn]] void no_cuda(Device device) {
  fail(ErrorCode::device, "memory: ", device, " can't be used: ", why_no_cuda());
}
void* allocate(int64_t, Device device) { no_cuda(device); }
void free_block(void*, Device device) { no_cuda(device); }
MemoryStats stats(Device device) { no_cuda(device); }
void reset_peak(Device device) { no_cuda(device); }
void release_cached(Device device) { no_cuda(device); }
#endif

}  // namespace

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  CAMO_CHECK(bytes >= 0, "storage: size must not be negative; got ", bytes, " bytes");
  const bool guarded = detail::wants_guards();
  const int64_t all = guarded ? bytes + 2 * detail::guard_bytes() : bytes;
  data_ = device.is_cpu() ? detail::allocate_cpu(all) : allocate(all, device);
  if (guarded) data_ = detail::begin_guards(data_, bytes, device);
}

Storage::~Storage() {
  void* block = detail::end_guards(data_, bytes_, device_);
  const int64_t all = block != nullptr ? bytes_ + 2 * detail::guard_bytes() : bytes_;
  if (block == nullptr) block = data_;
  if (device_.is_cpu()) detail::free_cpu(block, all);
  else free_block(block, device_);
}

MemoryStats memory_stats(Device device) { return device.is_cpu() ? detail::cpu_memory_stats() : stats(device); }

void reset_peak_memory(Device device) {
  if (device.is_cpu()) detail::reset_cpu_peak();
  else reset_peak(device);
}

void release_cached_memory(Device device) {
  if (device.is_cpu()) detail::release_cached_cpu();
  else release_cached(device);
}

}  // namespace camo
