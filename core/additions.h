// Sums of many small tensors: on CUDA in few launches.
#pragma once

#include <unordered_set>

#include "core/tensor.h"

namespace camo {

/// Calls of add_into(target, source); different targets share no memory. On CUDA they wait, and are done together.
class Additions {
 public:
  Additions() = default;
  Additions(const Additions&) = delete;
  Additions& operator=(const Additions&) = delete;

  void add(const Tensor& target, Tensor source);
  /// Does what waits; nothing else does.
  void finish();

 private:
  Tensors targets_, sources_;
  std::unordered_set<const TensorImpl*> waiting_;  // the targets
  int64_t waiting_bytes_ = 0;                      // of sources
};

/// The numbers of all parts, one part after the other: [n]. The parts have one floating dtype and one device; without a
/// graph. On CUDA few launches, where concat() copies part by part.
Tensor joined(const Tensors& parts);

}  // namespace camo
