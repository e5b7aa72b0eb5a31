// Segments from cudaMalloc are cut into blocks. A request takes the smallest free block that fits and gives the rest
// back; neighbours that are free are merged. Small requests have segments of their own, so that they do not pin large
// ones.
#include "core/cuda/allocator.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace camo::cuda {

namespace {

constexpr int64_t kGranule = 512;                  // sizes are multiples of it
constexpr int64_t kSmallLimit = int64_t{1} << 20;  // up to here a request is small
constexpr int64_t kSmallSegment = int64_t{2} << 20;
constexpr int64_t kLargeSegment = int64_t{32} << 20;   // larger requests get segments of their own size
constexpr int64_t kSegmentGranule = int64_t{2} << 20;  // the page size of the driver

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

struct Block {
  char* data;
  int64_t bytes;
  bool small;
  bool used = false;
  Block* before = nullptr;  // neighbours in the segment
  Block* after = nullptr;
};

struct Smaller {
  bool operator()(const Block* a, const Block* b) const {
    return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
  }
};
using FreeList = std::set<Block*, Smaller>;

class DeviceAllocator {
 public:
  explicit DeviceAllocator(Device device) : device_(device) {}

  void* allocate(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    const int64_t size = std::max(kGranule, round_up(bytes, kGranule));
    const bool small = size <= kSmallLimit;
    Block* block = take(size, small);
    if (block == nullptr) {
      add_segment(size, small);
      block = take(size, small);
    }
    live_ += block->bytes;
    peak_ = std::max(peak_, live_);
    used_[block->data] = block;
    return block->data;
  }

  void free(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(data));
    CAMO_ASSERT(found != used_.end());
    Block* block = found->second;
    used_.erase(found);
    live_ -= block->bytes;
    block->used = false;
    if (block->after != nullptr && !block->after->used) absorb_next(block);
    if (block->before != nullptr && !block->before->used) {
      block = block->before;
      absorb_next(block);
    }
    list(block->small).insert(block);
  }

  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return {live_, peak_, reserved_ - live_};
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = live_;
  }
  void release_cached() {
    const std::lock_guard lock(mutex_);
    release_free_segments();
  }

 private:
  FreeList& list(bool small) { return small ? free_small_ : free_large_; }

  /// The smallest free block of at least `size`, cut to it; null when there is none.
  Block* take(int64_t size, bool small) {
    FreeList& blocks = list(small);
    Block wanted{nullptr, size, small};
    const auto found = blocks.lower_bound(&wanted);
    if (found == blocks.end()) return nullptr;
    Block* block = *found;
    blocks.erase(found);
    block->used = true;
    const int64_t rest = block->bytes - size;
    if (rest >= (small ? kGranule : kSmallLimit)) {
      auto* tail = new Block{block->data + size, rest, small, false, block, block->after};
      if (block->after != nullptr) block->after->before = tail;
      block->after = tail;
      block->bytes = size;
      blocks.insert(tail);
    }
    return block;
  }

  /// Merges the free neighbour behind a block into it. Neither is in a free list afterwards.
  void absorb_next(Block* block) {
    list(block->small).erase(block);
    Block* next = block->after;
    list(next->small).erase(next);
    block->bytes += next->bytes;
    block->after = next->after;
    if (next->after != nullptr) next->after->before = block;
    delete next;
  }

  void add_segment(int64_t size, bool small) {
    const int64_t bytes = small ? kSmallSegment : std::max(kLargeSegment, round_up(size, kSegmentGranule));
    void* data = nullptr;
    use(device_);
    cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      CAMO_CUDA(cudaDeviceSynchronize());
      release_free_segments();
      status = cudaMalloc(&data, static_cast<size_t>(bytes));
    }
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free_bytes = 0, total_bytes = 0;
      CAMO_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
      fail(ErrorCode::device, "memory: ", device_, " has no ", size, " bytes left; live ", live_, ", peak ", peak_,
           ", cached ", reserved_ - live_, ", free on the device ", free_bytes, " of ", total_bytes,
           "; lower --batch-size or --img-size, or use --gradient-checkpointing");
    }
    CAMO_CUDA(status);
    reserved_ += bytes;
    list(small).insert(new Block{static_cast<char*>(data), bytes, small});
  }

  /// Frees the segments that are one free block.
  void release_free_segments() {
    for (FreeList* blocks : {&free_small_, &free_large_}) {
      for (auto it = blocks->begin(); it != blocks->end();) {
        Block* block = *it;
        if (block->before != nullptr || block->after != nullptr) {
          ++it;
          continue;
        }
        CAMO_CUDA(cudaFree(block->data));
        reserved_ -= block->bytes;
        it = blocks->erase(it);
        delete block;
      }
    }
  }

  Device device_;
  std::mutex mutex_;
  FreeList free_small_, free_large_;
  std::unordered_map<char*, Block*> used_;
  int64_t live_ = 0, peak_ = 0, reserved_ = 0;
};

/// Never destroyed: storages of static tensors may outlive every other static object.
DeviceAllocator& allocator(Device device) {
  static auto* allocators = [] {
    auto* made = new std::vector<std::unique_ptr<DeviceAllocator>>;
    for (int i = 0; i < device_count(); ++i) made->push_back(std::make_unique<DeviceAllocator>(Device::cuda(i)));
    return made;
  }();
  if (device.index < 0 || device.index >= device_count()) {
    const std::string reason = why_no_cuda();
    fail(ErrorCode::device, "memory: ", device, " can't be used: ",
         reason.empty() ? concat_text("this machine has ", device_count(), " CUDA devices, numbered from 0") : reason);
  }
  return *(*allocators)[static_cast<size_t>(device.index)];
}

}  // namespace

void* allocate(int64_t bytes, Device device) { return allocator(device).allocate(bytes); }
void free(void* block, Device device) { allocator(device).free(block); }
MemoryStats stats(Device device) { return allocator(device).stats(); }
void reset_peak(Device device) { allocator(device).reset_peak(); }
void release_cached(Device device) { allocator(device).release_cached(); }

}  // namespace camo::cuda
