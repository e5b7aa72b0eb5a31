// linear with one output on CUDA: a product too narrow for the tiles of matrix products.
#pragma once

#include "ops/detail/rows.h"

namespace camo::detail {

/// Up to how many pieces of 16 bytes a row of x the kernels are faster than cuBLASLt's.
inline constexpr int64_t kLinearOneForward = 16, kLinearOneBackward = 64;

/// Whether the kernels take x [M, in] and one row of weights: f32, f16 or bf16 in whole pieces, at most `most_pieces`.
bool has_linear_one(const Rows& x, const Tensor& weight, int64_t most_pieces);

/// y [M] = x weight + bias, which may be undefined; y is contiguous.
void linear_one_cuda(const Rows& x, const Tensor& weight, const Tensor& bias, const Tensor& y);

/// dx [M, in] = dy weight, dweight [in] = sum of dy x, dbias [1] = sum of dy; dx and dbias unless undefined. The last
/// two have one dtype: that of x, or f32.
void linear_one_backward_cuda(const Rows& dy, const Rows& x, const Tensor& weight, const Tensor& dx,
                              const Tensor& dweight, const Tensor& dbias);

}  // namespace camo::detail
