// What all losses require of their arguments.
#pragma once

#include "core/autograd.h"

namespace camo::detail {

inline void check_loss_arguments(const char* op, const Tensor& logits, const Tensor& target) {
  CAMO_CHECK(logits.shape() == target.shape(), op, ": target must have the shape of the logits; got logits ",
             logits.shape(), ", target ", target.shape());
  CAMO_CHECK(logits.dtype() == target.dtype(), op, ": target must have the dtype of the logits; got logits ",
             logits.dtype(), ", target ", target.dtype());
  CAMO_CHECK(logits.numel() > 0, op, ": needs at least one element; got logits ", logits.shape());
  CAMO_CHECK(!grad_wanted({target}), op, ": the target gets no gradient, but requires one; detach() it");
}

inline void check_map(const char* op, const Tensor& x) {
  CAMO_CHECK(x.dims() == 4, op, ": x must be a map [N, H, W, C]; got x ", x.shape());
}

}  // namespace camo::detail
