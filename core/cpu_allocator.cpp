// Fresh pages from the system cost more than most operations do, so memory that was freed is kept. Small blocks come in
// rounded sizes and wait for a request of the same size; what is kept of them is bounded by the most that was ever
// live. Large ones are cut out of segments: a request takes the smallest free block that fits and gives the rest back,
// and free neighbours are merged, so that a training step, whose sizes change from forward to backward, needs no fresh
// memory after the first one.
#include "core/cpu_allocator.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "core/error.h"

#ifdef __has_feature  // clang
#define CAMO_CLANG_ASAN __has_feature(address_sanitizer)
#else
#define CAMO_CLANG_ASAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CAMO_CLANG_ASAN
#define CAMO_REUSE_BLOCKS 0  // let the sanitizer see each allocation
#else
#define CAMO_REUSE_BLOCKS 1
#endif

namespace camo::detail {

namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and the widest vector register
constexpr int64_t kSmallLimit = int64_t{1} << 20;
constexpr int64_t kSegment = int64_t{64} << 20;  // larger requests get segments of their own size
constexpr int64_t kHugePage = int64_t{2} << 20;  // segments are made of these, where the system has them

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/// Rounded up so that nearly equal sizes share blocks: to a cache line, from 64 KiB to 1 MiB to an eighth of the power
/// of two.
int64_t block_size(int64_t bytes) {
  int64_t step = kAlignment;
  while (step * 8 < bytes && bytes > (int64_t{1} << 16) && bytes <= kSmallLimit) step *= 2;
  return std::max(kAlignment, round_up(bytes, step));
}

void* from_system(int64_t bytes, int64_t alignment) {
  return std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(bytes));
}

/// Large blocks.
class Segments {
 public:
  /// Null when the system has nothing left.
  void* allocate(int64_t size) {
    Block* block = take(size);
    if (block == nullptr && add_segment(size)) block = take(size);
    if (block == nullptr) return nullptr;
    used_[block->data] = block;
    return block->data;
  }

  void free(void* data) {
    const auto found = used_.find(static_cast<char*>(data));
    CAMO_ASSERT(found != used_.end());
    Block* block = found->second;
    used_.erase(found);
    block->used = false;
    if (block->after != nullptr && !block->after->used) absorb_next(block);
    if (block->before != nullptr && !block->before->used) {
      block = block->before;
      absorb_next(block);
    }
    add_free(block);
  }

  int64_t free_bytes() const { return free_bytes_; }

  /// Frees the segments that are one free block.
  void release() {
    for (auto it = free_.begin(); it != free_.end();) {
      Block* block = *it;
      if (block->before != nullptr || block->after != nullptr) {
        ++it;
        continue;
      }
      free_bytes_ -= block->bytes;
      std::free(block->data);
      it = free_.erase(it);
      delete block;
    }
  }

 private:
  struct Block {
    char* data;
    int64_t bytes;
    bool used = false;
    Block* before = nullptr;  // neighbours in the segment
    Block* after = nullptr;
  };
  struct Smaller {
    bool operator()(const Block* a, const Block* b) const {
      return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
    }
  };

  void add_free(Block* block) {
    free_.insert(block);
    free_bytes_ += block->bytes;
  }
  void remove_free(Block* block) {
    free_.erase(block);
    free_bytes_ -= block->bytes;
  }

  /// The smallest free block of at least `size`, cut to it; null when there is none.
  Block* take(int64_t size) {
    Block wanted{nullptr, size};
    const auto found = free_.lower_bound(&wanted);
    if (found == free_.end()) return nullptr;
    Block* block = *found;
    remove_free(block);
    block->used = true;
    const int64_t rest = block->bytes - size;
    if (rest >= kSmallLimit) {
      auto* tail = new Block{block->data + size, rest, false, block, block->after};
      if (block->after != nullptr) block->after->before = tail;
      block->after = tail;
      block->bytes = size;
      add_free(tail);
    }
    return block;
  }

  /// Merges the free block behind a block that is in no list into it.
  void absorb_next(Block* block) {
    if (free_.contains(block)) remove_free(block);
    Block* next = block->after;
    if (free_.contains(next)) remove_free(next);
    block->bytes += next->bytes;
    block->after = next->after;
    if (next->after != nullptr) next->after->before = block;
    delete next;
  }

  bool add_segment(int64_t size) {
    const int64_t bytes = std::max(kSegment, round_up(size, kHugePage));
    void* data = from_system(bytes, kHugePage);
    if (data == nullptr) return false;
#ifdef MADV_HUGEPAGE
    madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish: without it all works, with more page faults
#endif
    add_free(new Block{static_cast<char*>(data), bytes});
    return true;
  }

  std::set<Block*, Smaller> free_;
  std::unordered_map<char*, Block*> used_;
  int64_t free_bytes_ = 0;
};

class CpuAllocator {
 public:
  void* allocate(int64_t bytes) {
    const int64_t size = block_size(bytes);
    const std::lock_guard lock(mutex_);
    void* block = take(size);
    if (block == nullptr) {
      release_all();
      block = take(size);
    }
    if (block == nullptr) {
      fail(ErrorCode::out_of_memory, "memory: the CPU has no ", size, " bytes left; live ", live_, ", peak ", peak_,
           "; lower --batch-size or --img-size, or use --gradient-checkpointing");
    }
    live_ += size;
    peak_ = std::max(peak_, live_);
    if (size <= kSmallLimit) {
      small_live_ += size;
      small_most_ = std::max(small_most_, small_live_);
    }
    return block;
  }

  void free(void* block, int64_t bytes) {
    const int64_t size = block_size(bytes);
    const std::lock_guard lock(mutex_);
    live_ -= size;
    if (size <= kSmallLimit) small_live_ -= size;
    if (!CAMO_REUSE_BLOCKS) {
      std::free(block);
    } else if (size > kSmallLimit) {
      segments_.free(block);
    } else if (small_live_ + small_cached_ + size <= small_most_) {
      small_[size].push_back(block);
      small_cached_ += size;
    } else {
      std::free(block);
    }
  }

  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return {live_, peak_, small_cached_ + segments_.free_bytes()};
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = live_;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    release_all();
  }

 private:
  void* take(int64_t size) {
    if (!CAMO_REUSE_BLOCKS) return from_system(size, kAlignment);
    if (size > kSmallLimit) return segments_.allocate(size);
    const auto found = small_.find(size);
    if (found == small_.end() || found->second.empty()) return from_system(size, kAlignment);
    void* block = found->second.back();
    found->second.pop_back();
    small_cached_ -= size;
    return block;
  }

  void release_all() {
    for (auto& [size, blocks] : small_) {
      for (void* block : blocks) std::free(block);
    }
    small_.clear();
    small_cached_ = 0;
    segments_.release();
  }

  std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> small_;  // kept blocks by size
  Segments segments_;
  int64_t live_ = 0, peak_ = 0;
  int64_t small_live_ = 0, small_cached_ = 0, small_most_ = 0;
};

/// Never destroyed: storages of static tensors may outlive every other static object.
CpuAllocator& allocator() {
  static auto* instance = new CpuAllocator;
  return *instance;
}

}  // namespace

void* allocate_cpu(int64_t bytes) { return allocator().allocate(bytes); }
void free_cpu(void* block, int64_t bytes) { allocator().free(block, bytes); }
MemoryStats cpu_memory_stats() { return allocator().stats(); }
void reset_cpu_peak() { allocator().reset_peak(); }
void release_cached_cpu() { allocator().release(); }

}  // namespace camo::detail
