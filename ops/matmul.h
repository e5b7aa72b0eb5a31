// Matrix products.
#pragma once

#include "core/tensor.h"

namespace camo {

/// a [..., M, K] times b [..., K, N] -> [..., M, N]. Leading axes broadcast; both have two axes or more. Strided ones
/// (transposes, slices) are used in place.
Tensor matmul(const Tensor& a, const Tensor& b);

/// x [..., in] times weight [out, in] transposed, plus bias [out] (may be undefined) -> [..., out].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace camo
