// Attention on the CPU tile by tile: O(N) memory, scores computed again for backward. f32 and f64.
#pragma once

#include "ops/attention/problem.h"

namespace camo::flash {

/// Fills y [B, Nq, H, D], contiguous, and log_sum_exp [B, H, Nq] in the dtype of q.
void forward_cpu(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp);
/// Fills those of the gradients that are defined; contiguous along D.
void backward_cpu(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                  const AttentionGradients& gradients);

}  // namespace camo::flash
