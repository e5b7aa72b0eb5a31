// Reductions over axes. `axes` empty means all of them; negative axes count from the end; a repeated or missing axis
// throws. Sums of f32 accumulate in blocks whose order does not depend on the number of threads.
#pragma once

#include "core/tensor.h"

namespace camo {

Tensor sum(const Tensor& x, const Shape& axes = {}, bool keep_dims = false);  // also of i64; of nothing: 0
/// Throws on an empty range.
Tensor mean(const Tensor& x, const Shape& axes = {}, bool keep_dims = false);
/// Largest / smallest element, also of i64; equal ones share the gradient. Throws on an empty range.
Tensor max(const Tensor& x, const Shape& axes = {}, bool keep_dims = false);
Tensor min(const Tensor& x, const Shape& axes = {}, bool keep_dims = false);
/// Euclidean norm over all given axes; gradient 0 where the norm is 0.
Tensor norm(const Tensor& x, const Shape& axes = {}, bool keep_dims = false);
/// Position of the first largest element along one axis, i64. No gradient.
Tensor argmax(const Tensor& x, int axis, bool keep_dims = false);

/// The sum of a tensor over leading and stretched axes so that it gets the shape `shape`, which broadcasts to x's: the
/// gradient of broadcasting.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace camo
