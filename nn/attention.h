// Multi-head self-attention over tokens.
#pragma once

#include "nn/layers.h"

namespace camo {

struct SelfAttentionSpec {
  int64_t channels = 0;
  int64_t heads = 8;  // must divide the channels
  bool qkv_bias = true;
  double dropout = 0;  // on the attention weights, while training
  bool use_flash_attention = true;
};

/// softmax(q k^T / sqrt(channels / heads)) v per head, then a projection (arXiv:1706.03762). x [B, N, C] -> [B, N, C].
/// Keys: qkv.weight [3C, C] (q, k, v one after the other, head-major inside each), qkv.bias, proj.weight [C, C],
/// proj.bias.
class SelfAttention : public Module {
 public:
  explicit SelfAttention(const SelfAttentionSpec& spec);
  /// `mask`: bool (true = may attend) or additive, broadcast to [B, heads, N, N]; may be undefined.
  Tensor operator()(const Tensor& x, const Tensor& mask = {}) const;

 private:
  SelfAttentionSpec spec_;
  Linear& qkv_;
  Linear& proj_;
};

}  // namespace camo
