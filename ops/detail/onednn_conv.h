// Convolutions of oneDNN in f32, and in bf16 with sums in f32 (detail::has_bf16_products()). Without the library
// (CAMO_WITH_ONEDNN) these are absent.
#pragma once

#ifdef CAMO_WITH_ONEDNN

#include "ops/detail/conv_problem.h"

namespace camo::onednn {

using detail::ConvProblem;

// All tensors are contiguous: maps [N, H, W, C], weights [O, KH, KW, C / groups]. `bias` may be null.
// T is float or BFloat16.
template <class T>
void conv_forward(const ConvProblem& problem, const T* x, const T* weight, const T* bias, T* y);
template <class T>
void conv_backward_data(const ConvProblem& problem, const T* dy, const T* weight, T* dx);
template <class T>
void conv_backward_weight(const ConvProblem& problem, const T* x, const T* dy, float* dweight);

}  // namespace camo::onednn

#endif
