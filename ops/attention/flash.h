// Exact attention with O(N) memory: tiles of scores that never reach memory, computed again for backward.
#pragma once

#include <string>

#include "ops/attention.h"

namespace camo::flash {

/// Head dimensions below are computed as fast without the kernels for Hopper GPUs.
inline constexpr int64_t kLeastHopperWidth = 9;

/// One call, for choosing what computes it.
struct AttentionCase {
  Device device;
  DType dtype;
  int64_t queries, keys, width;
  bool plain = true;  // no mask, no dropout, a positive scale
};

/// What computes a call.
struct AttentionChoice {
  bool flash = false;
  std::string why_not;  // where flash was asked for and is not possible
};
/// Follows `backend`; where it is automatic, CAMO_SDPA_BACKEND (auto, flash or math).
AttentionChoice choose(const AttentionCase& call, AttentionBackend backend);
/// Whether scaled_dot_product_attention is to use attention() below. Warns, once for each reason, when flash was asked
/// for and is not possible.
bool is_chosen(const Tensor& q, const Tensor& k, const AttentionOptions& options);

/// attention_with_log_sum_exp for checked, non-empty arguments that choose() gave to flash.
AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                          double scale);

}  // namespace camo::flash
