// f32 convolutions of oneDNN. Without the library (CAMO_WITH_ONEDNN) these are absent.
#pragma once

#ifdef CAMO_WITH_ONEDNN

#include "ops/detail/conv_problem.h"

namespace camo::onednn {

using detail::ConvProblem;

// All tensors are contiguous: maps [N, H, W, C], weights [O, KH, KW, C / groups]. `bias` and `dbias` may be null.
void conv_forward(const ConvProblem& problem, const float* x, const float* weight, const float* bias, float* y);
void conv_backward_data(const ConvProblem& problem, const float* dy, const float* weight, float* dx);
void conv_backward_weight(const ConvProblem& problem, const float* x, const float* dy, float* dweight, float* dbias);

}  // namespace camo::onednn

#endif
