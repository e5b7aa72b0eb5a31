// What every operation on several tensors requires of them.
#pragma once

#include <initializer_list>

#include "core/tensor.h"

namespace camo::detail {

/// All defined tensors are on the device of the first one.
inline void check_same_device(const char* op, std::initializer_list<Tensor> tensors) {
  const Device device = tensors.begin()->device();
  for (const Tensor& x : tensors) {
    CAMO_CHECK(!x.defined() || x.device() == device, op, ": operands must be on one device; got ", device, " and ",
               x.device(), "; move them with to(x, device)");
  }
}

}  // namespace camo::detail
