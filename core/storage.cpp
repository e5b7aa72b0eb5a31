#include "core/storage.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "core/error.h"
#include "core/memory_check.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/allocator.h"
#endif

#if defined(__SANITIZE_ADDRESS__)
#define CAMO_REUSE_BLOCKS 0  // let the sanitizer see each allocation
#else
#define CAMO_REUSE_BLOCKS 1
#endif

namespace camo {

namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and the widest vector register

/// The CPU's allocator. Blocks come in rounded sizes and are kept for reuse, because fresh pages from the system cost
/// more than most operations do. Cached blocks are bounded by the most that was ever live.
class CpuAllocator {
 public:
  void* allocate(int64_t bytes) {
    const int64_t size = block_size(bytes);
    {
      std::lock_guard lock(mutex_);
      live_ += size;
      peak_ = std::max(peak_, live_);
      most_ = std::max(most_, live_);
      if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
        void* block = found->second.back();
        found->second.pop_back();
        cached_ -= size;
        return block;
      }
    }
    void* block = std::aligned_alloc(kAlignment, static_cast<size_t>(size));
    if (block == nullptr) {
      release_cached();
      block = std::aligned_alloc(kAlignment, static_cast<size_t>(size));
    }
    if (block == nullptr) {
      std::lock_guard lock(mutex_);
      live_ -= size;
      fail(ErrorCode::device, "memory: the CPU has no ", size, " bytes left; live ", live_, ", peak ", peak_,
           "; lower --batch-size or --img-size, or use --gradient-checkpointing");
    }
    return block;
  }

  void free(void* block, int64_t bytes) {
    const int64_t size = block_size(bytes);
    {
      std::lock_guard lock(mutex_);
      live_ -= size;
      if (CAMO_REUSE_BLOCKS && live_ + cached_ + size <= most_) {
        free_[size].push_back(block);
        cached_ += size;
        return;
      }
    }
    std::free(block);
  }

  void release_cached() {
    std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) std::free(block);
    }
    free_.clear();
    cached_ = 0;
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return {live_, peak_, cached_};
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    peak_ = live_;
  }

 private:
  /// Rounded up so that nearly equal sizes share blocks: to a cache line, from 64 KiB on to an eighth of the power of
  /// two.
  static int64_t block_size(int64_t bytes) {
    int64_t step = kAlignment;
    while (step * 8 < bytes && bytes > (int64_t{1} << 16)) step *= 2;
    return std::max(kAlignment, (bytes + step - 1) / step * step);
  }

  std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;
  int64_t live_ = 0, peak_ = 0, cached_ = 0;
  int64_t most_ = 0;  // largest live_ ever, whatever reset_peak() does
};

/// Never destroyed: storages of static tensors may outlive every other static object.
CpuAllocator& cpu_allocator() {
  static auto* allocator = new CpuAllocator;
  return *allocator;
}

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
  data_ = device.is_cpu() ? cpu_allocator().allocate(all) : allocate(all, device);
  if (guarded) data_ = detail::begin_guards(data_, bytes, device);
}

Storage::~Storage() {
  void* block = detail::end_guards(data_, bytes_, device_);
  const int64_t all = block != nullptr ? bytes_ + 2 * detail::guard_bytes() : bytes_;
  if (block == nullptr) block = data_;
  if (device_.is_cpu()) cpu_allocator().free(block, all);
  else free_block(block, device_);
}

MemoryStats memory_stats(Device device) { return device.is_cpu() ? cpu_allocator().stats() : stats(device); }

void reset_peak_memory(Device device) {
  if (device.is_cpu()) cpu_allocator().reset_peak();
  else reset_peak(device);
}

void release_cached_memory(Device device) {
  if (device.is_cpu()) cpu_allocator().release_cached();
  else release_cached(device);
}

}  // namespace camo
