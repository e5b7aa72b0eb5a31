// Attention on CUDA by products of whole score matrices. The formulas are in ops/attention.cu.
#pragma once

#include "ops/attention.h"

namespace camo::detail {

/// Fills y [B, Nq, H, D], and log_sum_exp [B, H, Nq] where defined; returns P [B, H, Nq, Nk] of q's dtype when `keep`.
/// Needs at least one query and key.
Tensor attention_forward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                              double scale, bool keep, const Tensor& y, const Tensor& log_sum_exp);

/// dq, dk and dv, each filled unless undefined.
struct AttentionGradientsCuda {
  Tensor dq, dk, dv;
};
void attention_backward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& probabilities,
                             const Tensor& dy, double dropout, RandomKey key, double scale,
                             const AttentionGradientsCuda& grads);

}  // namespace camo::detail
