// Whether a thread records a graph (core/cuda/graph.h): what may not be recorded asks here first.
#pragma once

#include "core/random.h"

namespace camo::cuda {

bool is_recording();
/// Returns what it was before.
bool set_recording(bool recording);
/// Throws ErrorCode::device while this thread records; `what` would wait for the device or copy from or to the host.
void refuse_recording(const char* what);

/// A key as kernels take it: counted from one on the device where that is given.
struct KernelKey {
  RandomKey key;
  const RandomKey* base = nullptr;

  CAMO_HOST_DEVICE RandomKey now() const {
    return base == nullptr ? key : RandomKey{base->seed, base->stream + key.stream};
  }
};
/// Throws ErrorCode::device where this thread records outside of RecordedKeys: each launch would draw the same numbers.
KernelKey kernel_key(RandomKey key);

/// Within it, keys of recorded work count from the one that `base` (memory on the device) holds at the time of a
/// launch, as they count from `first` now. Scopes do not nest.
class RecordedKeys {
 public:
  RecordedKeys(const RandomKey* base, RandomKey first);
  ~RecordedKeys();
  RecordedKeys(const RecordedKeys&) = delete;
  RecordedKeys& operator=(const RecordedKeys&) = delete;

 private:
  friend KernelKey kernel_key(RandomKey key);
  const RandomKey* base_;
  RandomKey first_;
};

}  // namespace camo::cuda
