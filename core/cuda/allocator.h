// The caching allocator of CUDA devices.
#pragma once

#include <cstdint>
#include <memory>

#include "core/storage.h"

namespace camo::cuda {

/// Memory on a device, reused in the order of its compute stream: a block freed by the host may be handed out at once,
/// because work that still uses it is ahead in the stream. Retries after giving cached memory back; then throws
/// ErrorCode::out_of_memory with what was asked, live and cached, and which flags to lower.
void* allocate(int64_t bytes, Device device);
void free(void* block, Device device);

/// Segments apart from all others, for work that is recorded once and launched again: what it allocates and frees
/// within its own scopes is handed out to nobody else, so that each launch may use the same addresses. When the pool
/// ends, its memory joins the rest.
class MemoryPool {
 public:
  explicit MemoryPool(Device device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  Device device() const { return device_; }

  /// Within it, requests of this thread for the pool's device are served from the pool. Scopes nest.
  class Scope {
   public:
    explicit Scope(MemoryPool& pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    MemoryPool* previous_;
  };

 private:
  friend void* allocate(int64_t bytes, Device device);
  struct Arena;
  Device device_;
  std::unique_ptr<Arena> arena_;
};

/// What lives on a device when this is made is given to nobody else before this ends, whoever frees it: recorded work
/// holds addresses, not tensors. Tables and copies that operations keep in caches are covered by that. The block at
/// `except` is not.
class MemoryHold {
 public:
  explicit MemoryHold(Device device, const void* except = nullptr);
  ~MemoryHold();
  MemoryHold(const MemoryHold&) = delete;
  MemoryHold& operator=(const MemoryHold&) = delete;

 private:
  Device device_;
  int64_t number_;
};

MemoryStats stats(Device device);
void reset_peak(Device device);
void release_cached(Device device);
/// The driver is asked for no more where live and cached memory would exceed so many bytes: that is out of memory.
/// INT64_MAX: no limit.
void set_memory_limit(Device device, int64_t bytes);

}  // namespace camo::cuda
