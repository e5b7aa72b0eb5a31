// The CUDA kernels of flash attention, as host code calls them.
#pragma once

#include "ops/attention/problem.h"

namespace camo::flash {

/// Fills y [B, Nq, H, D], contiguous, and log_sum_exp [B, H, Nq] f32.
void forward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp);
/// Fills those of the gradients that are defined; each is contiguous along D.
void backward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                   const AttentionGradients& gradients);

/// Whether a device runs the Hopper kernels: it is of compute capability 9.0, and the program has code for it
/// (CMAKE_CUDA_ARCHITECTURES 90a).
bool has_hopper_kernels(Device device);

}  // namespace camo::flash
