// Exact attention with O(N) memory: tiles of scores that never reach memory, computed again for backward.
#pragma once

#include <string>

#include "ops/attention.h"

namespace camo::flash {

/// The implementations of a pass.
enum class Kernel {
  tiled,        // tiled_cpu.cpp
  mma,          // cuda/forward.cuh, cuda/backward.cuh, f32: cuda/f32_*.cuh; any rules
  rounded,      // cuda/f32_wgmma*.cuh, f32 where TF32 is allowed: no rules; Hopper GPUs
  narrow,       // cuda/narrow_forward.cuh, cuda/narrow_backward.cuh: no rules
  whole,        // cuda/whole_backward.cuh: no rules, a block for each head
  wgmma,        // cuda/hopper_*.cuh: no rules but causality; Hopper GPUs
  resident,     // cuda/hopper_resident.cuh: no rules; Hopper GPUs
  short_wgmma,  // cuda/hopper_short_backward.cuh: no rules; Hopper GPUs
};
enum class Pass { forward, backward };

/// One call, for choosing what computes it. Neither the number of pictures and heads nor how they lie in memory counts:
/// a head gives the same bits in any company.
struct AttentionCase {
  Device device;
  DType dtype;
  int64_t queries, keys, width;
  bool plain = true;  // no mask, no dropout, a positive scale
  bool causal = false;
  Pass pass = Pass::forward;
};

/// What computes a call.
struct AttentionChoice {
  bool flash = false;
  std::string why_not;  // where flash was asked for and is not possible
};
/// Follows `backend`; where it is automatic, CAMO_SDPA_BACKEND (auto, flash or math).
AttentionChoice choose(const AttentionCase& call, AttentionBackend backend);
/// The implementation of a pass of a call that flash computes.
Kernel kernel_of(const AttentionCase& call);
/// Whether scaled_dot_product_attention is to use attention() below. Warns, once for each reason, when flash was asked
/// for and is not possible.
bool is_chosen(const Tensor& q, const Tensor& k, const AttentionOptions& options);

/// attention_with_log_sum_exp for checked, non-empty arguments that choose() gave to flash.
AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                          double scale);

}  // namespace camo::flash
