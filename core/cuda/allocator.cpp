// Segments from cudaMalloc are cut into blocks. A request takes the smallest free block that fits and gives the rest
// back; neighbours that are free are merged. Small requests have segments of their own, so that they do not pin large
// ones. Segments belong to an arena: the common one, or that of a MemoryPool. The large blocks of a pool are cut from
// one segment that grows: what is recorded once and keeps its memory has no later step to find better gaps for it.
#include "core/cuda/allocator.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/cuda/growing_range.h"
#include "core/cuda/recording.h"
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

struct ArenaLists;

struct Block {
  char* data;
  int64_t bytes;
  bool small;
  ArenaLists* arena = nullptr;
  bool used = false;
  Block* before = nullptr;  // neighbours in the segment
  Block* after = nullptr;
  int64_t born = 0, freed = 0;  // when, as the allocator counts
};

struct Smaller {
  bool operator()(const Block* a, const Block* b) const {
    return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
  }
};
using FreeList = std::set<Block*, Smaller>;

struct ArenaLists {
  FreeList free_small, free_large;
  std::unique_ptr<GrowingRange> range;  // of a pool, for large blocks; null where the driver has none
  Block* first_of_range = nullptr;

  FreeList& list(bool small) { return small ? free_small : free_large; }
};

class DeviceAllocator {
 public:
  explicit DeviceAllocator(Device device) : device_(device) {}

  /// From the common arena when `pool` is null.
  void* allocate(int64_t bytes, ArenaLists* pool) {
    const std::lock_guard lock(mutex_);
    ArenaLists& arena = pool != nullptr ? *pool : common_;
    const int64_t size = std::max(kGranule, round_up(bytes, kGranule));
    const bool small = size <= kSmallLimit;
    Block* block = take(arena, size, small);
    if (block == nullptr) {
      add_segment(arena, size, small);
      block = take(arena, size, small);
    }
    block->born = ++now_;
    if (&arena == &common_) add_live(block->bytes);
    used_[block->data] = block;
    return block->data;
  }

  void free(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(data));
    CAMO_ASSERT(found != used_.end());
    Block* block = found->second;
    block->freed = ++now_;
    if (is_held(block, block->freed)) deferred_.push_back(block);
    else release(block);
  }

  /// Returns its number.
  int64_t begin_hold(const void* except) {
    const std::lock_guard lock(mutex_);
    holds_[++now_] = except;
    return now_;
  }
  void end_hold(int64_t number) {
    const std::lock_guard lock(mutex_);
    holds_.erase(number);
    std::erase_if(deferred_, [&](Block* block) {
      const bool ends = !is_held(block, block->freed);
      if (ends) release(block);
      return ends;
    });
  }

  /// Makes everything of an arena common.
  void absorb(ArenaLists& arena) {
    const std::lock_guard lock(mutex_);
    for (const bool small : {true, false}) {
      for (Block* block : arena.list(small)) {
        block->arena = &common_;
        live_ -= block->bytes;
        common_.list(small).insert(block);
      }
      arena.list(small).clear();
    }
    for (const auto& [data, block] : used_) {
      if (block->arena == &arena) block->arena = &common_;
    }
    if (arena.first_of_range != nullptr) ranges_[arena.range->begin()] = std::move(arena.range);
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
    use(device_);
    release_free_segments();
  }
  void set_limit(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }

 private:
  void add_live(int64_t bytes) {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }

  static FreeList& list_of(const Block* block) { return block->arena->list(block->small); }

  /// Whether it lived when a hold began that has not ended, up to a point in time.
  bool is_held(const Block* block, int64_t until) const {
    for (auto hold = holds_.upper_bound(block->born); hold != holds_.end() && hold->first <= until; ++hold) {
      if (hold->second != block->data) return true;
    }
    return false;
  }

  /// Of a block in use.
  void release(Block* block) {
    used_.erase(block->data);
    if (block->arena == &common_) live_ -= block->bytes;
    block->used = false;
    if (block->after != nullptr && !block->after->used) absorb_next(block);
    if (block->before != nullptr && !block->before->used) {
      block = block->before;
      absorb_next(block);
    }
    list_of(block).insert(block);
  }

  /// The smallest free block of at least `size`, cut to it; null when there is none.
  static Block* take(ArenaLists& arena, int64_t size, bool small) {
    FreeList& blocks = arena.list(small);
    Block wanted{nullptr, size, small};
    const auto found = blocks.lower_bound(&wanted);
    if (found == blocks.end()) return nullptr;
    Block* block = *found;
    blocks.erase(found);
    block->used = true;
    const int64_t rest = block->bytes - size;
    if (rest >= (small ? kGranule : kSmallLimit)) {
      auto* tail = new Block{block->data + size, rest, small, &arena, false, block, block->after};
      if (block->after != nullptr) block->after->before = tail;
      block->after = tail;
      block->bytes = size;
      blocks.insert(tail);
    }
    return block;
  }

  /// Merges the free neighbour behind a block into it. Neither is in a free list afterwards.
  static void absorb_next(Block* block) {
    list_of(block).erase(block);
    Block* next = block->after;
    list_of(next).erase(next);
    block->bytes += next->bytes;
    block->after = next->after;
    if (next->after != nullptr) next->after->before = block;
    delete next;
  }

  void add_segment(ArenaLists& arena, int64_t size, bool small) {
    use(device_);
    const bool pooled = &arena != &common_;
    if (pooled && !small && arena.range == nullptr) arena.range = GrowingRange::reserve(device_);
    if (pooled && !small && arena.range != nullptr) return extend_range(arena, size);
    const int64_t least = small ? kSmallSegment : pooled ? kSegmentGranule : kLargeSegment;
    const int64_t bytes = std::max(least, round_up(size, kSegmentGranule));
    void* data = nullptr;
    ask_driver(size, bytes, [&] { return cudaMalloc(&data, static_cast<size_t>(bytes)); });
    count_segment(bytes, pooled);
    arena.list(small).insert(new Block{static_cast<char*>(data), bytes, small, &arena});
  }

  /// Lets the range of a pool end in a free block of at least `size`.
  void extend_range(ArenaLists& arena, int64_t size) {
    Block* last = arena.first_of_range;
    while (last != nullptr && last->after != nullptr) last = last->after;
    const bool joins = last != nullptr && !last->used;
    const int64_t bytes = round_up(size - (joins ? last->bytes : 0), kSegmentGranule);
    char* const end = arena.range->begin() + arena.range->bytes();
    ask_driver(size, bytes, [&] { return arena.range->grow(bytes); });
    count_segment(bytes, true);
    auto* added = new Block{end, bytes, false, &arena, false, last};
    (last != nullptr ? last->after : arena.first_of_range) = added;
    arena.free_large.insert(added);
    if (!joins) return;
    absorb_next(last);
    arena.free_large.insert(last);
  }

  /// For `bytes`. Asks again after giving cached memory back; throws where there is none for a block of `size`.
  template <class Ask>
  void ask_driver(int64_t size, int64_t bytes, Ask ask_without_limit) {
    const auto ask = [&] { return bytes > limit_ - reserved_ ? cudaErrorMemoryAllocation : ask_without_limit(); };
    cudaError_t status = ask();
    if (status == cudaErrorMemoryAllocation && !is_recording()) {  // a recording must not wait for the device
      cudaGetLastError();
      CAMO_CUDA(cudaDeviceSynchronize());
      release_free_segments();
      status = ask();
    }
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free_bytes = 0, total_bytes = 0;
      CAMO_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
      fail(ErrorCode::out_of_memory, "memory: ", device_, " has no ", size, " bytes left; live ", live_, ", peak ",
           peak_, ", cached ", reserved_ - live_, ", free on the device ", free_bytes, " of ", total_bytes,
           limit_ < INT64_MAX ? concat_text(", limit ", limit_) : "",
           "; lower --batch-size or --img-size, or use --gradient-checkpointing");
    }
    CAMO_CUDA(status);
  }

  void count_segment(int64_t bytes, bool pooled) {
    reserved_ += bytes;
    if (pooled) add_live(bytes);  // all of it: recorded work uses free blocks too
  }

  /// Frees the common segments that are one free block. Pools keep theirs: recorded work writes to free blocks.
  void release_free_segments() {
    for (FreeList* blocks : {&common_.free_small, &common_.free_large}) {
      for (auto it = blocks->begin(); it != blocks->end();) {
        Block* block = *it;
        if (block->before != nullptr || block->after != nullptr) {
          ++it;
          continue;
        }
        free_segment(block->data);
        reserved_ -= block->bytes;
        it = blocks->erase(it);
        delete block;
      }
    }
  }

  void free_segment(char* data) {
    const auto range = ranges_.find(data);
    if (range == ranges_.end()) {
      CAMO_CUDA(cudaFree(data));
      return;
    }
    CAMO_CUDA(cudaDeviceSynchronize());  // as cudaFree does
    ranges_.erase(range);
  }

  Device device_;
  std::mutex mutex_;
  ArenaLists common_;
  std::unordered_map<char*, Block*> used_;
  std::vector<Block*> deferred_;                                     // freed while held: still in used_
  std::unordered_map<char*, std::unique_ptr<GrowingRange>> ranges_;  // of pools that ended
  int64_t live_ = 0, peak_ = 0, reserved_ = 0, limit_ = INT64_MAX;
  std::map<int64_t, const void*> holds_;  // by when they began: the block that is not held
  int64_t now_ = 0;                       // counts blocks handed out and freed, and holds
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

thread_local MemoryPool* current_pool = nullptr;

}  // namespace

struct MemoryPool::Arena : ArenaLists {};

MemoryPool::MemoryPool(Device device) : device_(device), arena_(std::make_unique<Arena>()) {}
MemoryPool::~MemoryPool() { allocator(device_).absorb(*arena_); }

MemoryPool::Scope::Scope(MemoryPool& pool) : previous_(std::exchange(current_pool, &pool)) {}
MemoryPool::Scope::~Scope() { current_pool = previous_; }

MemoryHold::MemoryHold(Device device, const void* except)
    : device_(device), number_(allocator(device).begin_hold(except)) {}
MemoryHold::~MemoryHold() { allocator(device_).end_hold(number_); }

void* allocate(int64_t bytes, Device device) {
  const bool from_pool = current_pool != nullptr && current_pool->device_ == device;
  return allocator(device).allocate(bytes, from_pool ? current_pool->arena_.get() : nullptr);
}
void free(void* block, Device device) { allocator(device).free(block); }
MemoryStats stats(Device device) { return allocator(device).stats(); }
void reset_peak(Device device) { allocator(device).reset_peak(); }
void release_cached(Device device) { allocator(device).release_cached(); }
void set_memory_limit(Device device, int64_t bytes) { allocator(device).set_limit(bytes); }

}  // namespace camo::cuda
