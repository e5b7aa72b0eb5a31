// Softmax attention.
#pragma once

#include <optional>

#include "core/random.h"
#include "core/tensor.h"

namespace camo {

struct AttentionOptions {
  Tensor mask{};            // bool (true = may attend) or additive floating, broadcast to [B, H, Nq, Nk]; or undefined
  double dropout = 0;       // probability on the attention weights
  RandomKey dropout_key{};  // used when dropout > 0
  bool causal = false;      // query i sees keys j <= i + Nk - Nq
  std::optional<double> scale{};  // default 1 / sqrt(D)
};

/// softmax(scale * q k^T + mask) v. q [B, Nq, H, D], k and v [B, Nk, H, D], any strides -> [B, Nq, H, D], contiguous.
/// A row with no visible key gives zeros and has zero gradients. Gradients for q, k, v (not for an additive mask, which
/// throws when it requires one).
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionOptions& options = {});

}  // namespace camo
