// Softmax attention.
#pragma once

#include <optional>
#include <string>

#include "core/random.h"
#include "core/tensor.h"

namespace camo {

/// What computes attention: `math` makes the matrix of scores, `flash` only tiles of it (ops/attention/flash.h).
enum class AttentionBackend { automatic, flash, math };

struct AttentionOptions {
  Tensor mask{};            // bool (true = may attend) or additive floating, broadcast to [B, H, Nq, Nk]; or undefined
  double dropout = 0;       // probability on the attention weights
  RandomKey dropout_key{};  // used when dropout > 0
  bool causal = false;      // query i sees keys j <= i + Nk - Nq
  std::optional<double> scale{};  // default 1 / sqrt(D)
  /// automatic: what set_attention_backend() or else CAMO_SDPA_BACKEND (auto, flash, math) says, and what is faster
  /// where they say nothing. Where flash is asked for and not possible, a warning says why, once, and math is used.
  AttentionBackend backend = AttentionBackend::automatic;
};

/// softmax(scale * q k^T + mask) v. q [B, Nq, H, D], k and v [B, Nk, H, D], any strides -> [B, Nq, H, D], contiguous.
/// On the CPU, f16 and bf16 are computed in f32 and rounded at the end.
/// A row with no visible key gives zeros and has zero gradients. Gradients for q, k, v (not for an additive mask, which
/// throws when it requires one).
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionOptions& options = {});

struct AttentionResult {
  Tensor y;
  Tensor
      log_sum_exp;  // [B, H, Nq], f32 (f64 for f64): log of the sum of exp(score) over visible keys, -infinity for none
};
/// scaled_dot_product_attention with the log-sum-exp of each query's scores, through which no gradient flows.
AttentionResult attention_with_log_sum_exp(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const AttentionOptions& options = {});

/// What `automatic` stands for from now on, on all threads, whatever the environment says; automatic itself leaves it
/// to the environment again.
void set_attention_backend(AttentionBackend backend);
/// What `automatic` stands for now. Throws ErrorCode::usage when CAMO_SDPA_BACKEND holds something else.
AttentionBackend attention_backend();

/// What scaled_dot_product_attention would use, for reports.
std::string attention_kernel_name(Device device, DType dtype, int64_t queries, int64_t keys, int64_t width,
                                  AttentionBackend backend = AttentionBackend::automatic);
/// Why it would be math; empty for flash.
std::string why_math_attention(Device device, DType dtype, int64_t queries, int64_t keys, int64_t width,
                               AttentionBackend backend = AttentionBackend::automatic);

}  // namespace camo
