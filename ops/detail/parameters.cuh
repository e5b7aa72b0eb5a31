// Vectors of parameters and their gradients, which kernels read and write in the accumulator's dtype.
#pragma once

#include "core/cuda/kernels.cuh"
#include "core/tensor.h"

namespace camo::detail {

/// x itself where it is contiguous, of dtype A and at an address for the widest pack; else a copy that is.
template <class A>
Tensor parameter(const Tensor& x) {
  if (x.dtype() == dtype_of<A> && x.is_contiguous() && cuda::is_aligned(x.raw_data(), 32)) return x.detach();
  Tensor y = empty(x.shape(), dtype_of<A>, x.device());
  copy_into(y, x);
  return y;
}

/// A vector to write in dtype A that stands for `target`: itself where it can, else a copy to be stored back. An
/// undefined target gets a vector that is thrown away.
template <class A>
class ParameterTarget {
 public:
  ParameterTarget(const Tensor& target, int64_t width, Device device) : target_(target) {
    direct_ = target.defined() && target.dtype() == dtype_of<A> && target.is_contiguous();
    written_ = direct_ ? target.detach() : empty({width}, dtype_of<A>, device);
  }
  /// With the target's values to begin with.
  static ParameterTarget loaded(const Tensor& target) {
    ParameterTarget result(target, target.numel(), target.device());
    if (!result.direct_) copy_into(result.written_, target);
    return result;
  }
  A* data() const { return written_.template data<A>(); }
  void store() const {
    if (direct_) target_.storage()->bump_version();
    else if (target_.defined()) copy_into(target_, written_);
  }

 private:
  Tensor target_, written_;
  bool direct_ = false;
};

}  // namespace camo::detail
