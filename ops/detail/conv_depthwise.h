// Vectorised loops for depthwise convolutions, and for grouped ones with one output channel a group.
//
// Both are one computation: z[c] = sum over taps of x[c] * weight[c], and y[o] = the sum of z over the channels of
// group o. The loops run over blocks of channels held in vector registers.
#pragma once

#include "ops/detail/conv_problem.h"

namespace camo::detail {

/// Whether the loops cover this problem: one output channel a group.
inline bool is_depthwise(const ConvProblem& p) { return p.groups == p.o && p.groups > 1; }
/// The gradient of x is a convolution with the kernel turned by 180 degrees when nothing is skipped.
inline bool has_depthwise_backward_data(const ConvProblem& p) {
  return is_depthwise(p) && p.stride_h == 1 && p.stride_w == 1;
}

// Contiguous tensors; `bias` may be null. T: float, double.
template <class T>
void depthwise_forward(const ConvProblem& problem, const T* x, const T* weight, const T* bias, T* y);
template <class T>
void depthwise_backward_data(const ConvProblem& problem, const T* dy, const T* weight, T* dx);
template <class T>
void depthwise_backward_weight(const ConvProblem& problem, const T* x, const T* dy, T* dweight);

}  // namespace camo::detail
