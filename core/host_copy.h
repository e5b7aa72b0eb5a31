// Whole numbers on their way to the host.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace camo {

/// A copy of an i64 tensor that is waited for alone: not, as by to_vector(), with all work queued behind it. Recorded
/// work copies again with each launch, for as long as this lives.
class HostCopy {
 public:
  /// Queues the copy of `x`, which must be contiguous, behind the work on it.
  explicit HostCopy(const Tensor& x);
  ~HostCopy();
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  /// Waits until the last copy that was queued has come. Throws ErrorCode::device within a recording.
  std::vector<int64_t> wait() const;

 private:
  struct Landing;
  Tensor source_;                     // on the CPU: itself
  std::unique_ptr<Landing> landing_;  // of a GPU
};

}  // namespace camo
