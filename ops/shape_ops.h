// Views and joins of any dtype, and index operations. Views share storage with their source; gradients flow through.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace camo {

/// One extent may be -1. A view where the strides allow it, else a copy.
Tensor reshape(const Tensor& x, const Shape& shape);
/// Merges the axes [first, last].
Tensor flatten(const Tensor& x, int first = 0, int last = -1);
Tensor permute(const Tensor& x, const Shape& order);
/// Swaps two axes.
Tensor transpose(const Tensor& x, int a, int b);
/// Inserts an axis of extent 1, so that it has this index in the result.
Tensor unsqueeze(const Tensor& x, int axis);
/// Removes an axis of extent 1.
Tensor squeeze(const Tensor& x, int axis);
/// Repeats extents of 1 (and new leading axes) without a copy.
Tensor expand(const Tensor& x, const Shape& shape);
/// Row-major memory; x itself when it has that already.
Tensor contiguous(const Tensor& x);

/// x[..., start : stop : step, ...] along one axis; negative positions count from the end; beyond it throws; step >= 1.
Tensor slice(const Tensor& x, int axis, int64_t start, int64_t stop, int64_t step = 1);
/// One index along an axis, which disappears.
Tensor select(const Tensor& x, int axis, int64_t index);
/// Parts of these sizes, which add up to the extent. The parts are views.
Tensors split(const Tensor& x, const std::vector<int64_t>& sizes, int axis);
/// `count` parts of ceil(extent / count), the last ones smaller or missing, as PyTorch does.
Tensors chunk(const Tensor& x, int count, int axis);
/// Joins along one axis; all other extents equal.
Tensor concat(const Tensors& parts, int axis);
/// Joins along a new axis.
Tensor stack(const Tensors& parts, int axis);
/// What stack() joined: each index along an axis, which disappears. Views.
Tensors unstack(const Tensor& x, int axis);
/// Zeros before and after along one axis.
Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after);
/// Reverses the order along these axes.
Tensor flip(const Tensor& x, const Shape& axes);
/// Rotates [N, H, W, C] maps by `turns` * 90 degrees counter-clockwise (any sign), as numpy.rot90 on axes (H, W).
Tensor rot90(const Tensor& x, int turns);

// An index out of range throws. On CUDA, where looking at it would wait for the device, a later call throws: the next
// launch after the kernel, or the next that reads a result. CAMO_SYNC=1 in the environment lets the call itself throw.

/// y[i...] = x[..., index[i...], ...] element by element: index (i64) has x's dims, extents at most x's off `axis`.
Tensor gather(const Tensor& x, int axis, const Tensor& index);
/// Zeros of extent `extent` along `axis`, to which values are added at `index`: the transpose of gather.
Tensor scatter_add(const Tensor& values, int axis, const Tensor& index, int64_t extent);
/// Whole slices: y[..., i, ...] = x[..., index[i], ...]; index is a vector of i64. Repeats are allowed.
Tensor index_select(const Tensor& x, int axis, const Tensor& index);
/// A copy of x with values[..., i, ...] added to slice index[i] along `axis`; repeats add up, in order.
Tensor index_add(const Tensor& x, int axis, const Tensor& index, const Tensor& values);

struct TopK {
  Tensor values;   // [..., k], largest first
  Tensor indices;  // i64, [..., k]; equal values in order of position
};
/// The k largest elements along the last axis. NaN counts as largest. The gradient flows through the values.
TopK top_k(const Tensor& x, int64_t k);

}  // namespace camo
