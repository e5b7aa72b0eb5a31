// The index operations on CUDA. All tensors are on one device; index is contiguous i64. An index out of range counts
// as 0 and leaves a note, with which the next launch throws.
#pragma once

#include "core/tensor.h"

namespace camo::detail {

/// y[i...] = x[..., index[i...], ...]; y is contiguous, of index's shape; x has any strides.
void gather_cuda(const Tensor& y, const Tensor& x, int axis, const Tensor& index);
/// target[..., index[i...], ...] += values[i...]; values are contiguous, of index's shape.
void scatter_add_cuda(const Tensor& target, int axis, const Tensor& index, const Tensor& values, const char* op);
/// y[..., i, ...] = x[..., index[i], ...]; both contiguous and not empty.
void copy_slices_cuda(const Tensor& y, const Tensor& x, int axis, const Tensor& index);
/// y = base (zeros when undefined) with values[..., i, ...] added to slice index[i]; all contiguous.
void add_slices_cuda(const Tensor& y, const Tensor& base, int axis, const Tensor& index, const Tensor& values,
                     const char* op);

}  // namespace camo::detail
