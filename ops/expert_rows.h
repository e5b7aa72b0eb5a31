// Images to experts and back: the rows of a batch (slices of its first axis) are dealt out to parts, and summed again.
//
// A routing has k slots an image; entry b * k + s of `places` says where the row of slot s of image b lies. Every row
// of every part belongs to exactly one slot.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace camo {

struct RowPlace {
  int64_t part = 0;
  int64_t row = 0;
};

/// Copies the rows of x [N, ...] into parts of these sizes: parts[p][r] = x[b]. A part that holds all of x in order is
/// a view of it. The gradient of x[b] is the sum over its slots, in their order.
Tensors dispatch_rows(const Tensor& x, const std::vector<RowPlace>& places, const std::vector<int64_t>& sizes);

/// y[b] = sum over the slots s of weights[b, s] * parts[p][r], in the order of the slots; weights [N, k] has the parts'
/// dtype. Gradients for parts and weights.
Tensor combine_rows(const Tensors& parts, const std::vector<RowPlace>& places, const Tensor& weights);

/// The same sum with the routing where the tensors are, so that nothing waits for a host: y[b] = sum over the slots s
/// of weights[b, s] * parts[indices[b, s]][rows[b, s]]. indices and rows are [N, k] i64; parts may have rows that no
/// slot names, whose values don't matter. No gradient.
Tensor combine_chosen(const Tensors& parts, const Tensor& indices, const Tensor& rows, const Tensor& weights);

}  // namespace camo
