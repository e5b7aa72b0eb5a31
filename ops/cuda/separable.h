// Separable linear maps (resizing, average pools) on CUDA.
#pragma once

#include "ops/detail/separable.h"

namespace camo::cuda {

/// detail::separable_map for a tensor on CUDA, f32, f64, f16 or bf16. Each output gathers its taps in their order.
Tensor separable_map(const Tensor& x, const detail::AxisTaps& rows, const detail::AxisTaps& columns, const char* op,
                     const Tensor& sum);

}  // namespace camo::cuda
