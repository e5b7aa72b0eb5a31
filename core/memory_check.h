// For tests: memory that shows reads before writes and writes out of bounds.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace camo {

/// While one lives, every new storage begins as NaN in all floating dtypes (0xFF bytes) and has 4 KiB of guard on
/// either side, which is compared when the storage is freed. Storages made before stay as they were. One at a time.
class MemoryCheck {
 public:
  MemoryCheck();
  ~MemoryCheck();
  MemoryCheck(const MemoryCheck&) = delete;
  MemoryCheck& operator=(const MemoryCheck&) = delete;

  /// Freed storages of this check whose guards had changed.
  int64_t damaged() const;
  /// Freed storages of this check.
  int64_t checked() const;
};

namespace detail {

/// As Storage calls them. begin_guards returns the memory to use, within `bytes + 2 * guard_bytes()` bytes at `block`;
/// end_guards the block again, for memory that has guards, else null.
bool wants_guards();
int64_t guard_bytes();
void* begin_guards(void* block, int64_t bytes, Device device);
void* end_guards(void* data, int64_t bytes, Device device);

}  // namespace detail

}  // namespace camo
