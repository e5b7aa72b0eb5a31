// Shared by the tests of attention: inputs in the layouts that callers have, error bounds, comparisons with the
// reference. The tests run on the default device: f64 and f32 on the CPU, f32, f16 and bf16 on CUDA.
#pragma once

#include <string>
#include <vector>

#include "ops/math_mode.h"
#include "tests/attention/reference.h"
#include "tests/support/test_support.h"

namespace camo::test {

/// The dtypes that flash attention has implementations for on the default device.
std::vector<DType> flash_dtypes();
/// Whether flash attention takes heads of this width there.
bool flash_takes(DType dtype, int64_t width);

/// Largest error against the reference, for N(0, 1) inputs and relative to the largest element (or 1). In 16 bits an
/// element may exceed it as far as the roundings of its own terms explain (attention_reference).
struct AttentionBounds {
  double output, gradient, log_sum_exp;
  double relative_l2;  // of the output; gradients twice that
  AttentionRoundings roundings;
};
AttentionBounds attention_bounds(DType dtype);

enum class Layout {
  dense,           // four tensors [B, N, H, D]
  fused,           // q, k, v as slices of [B, N, 3, H, D], as a projection leaves them (needs Nq = Nk)
  channels_first,  // [B, H, D, N] in memory
  padded,          // NaN between the heads and between the tokens
  misaligned,      // dense, one element behind an aligned address
};
inline constexpr Layout kLayouts[] = {Layout::dense, Layout::fused, Layout::channels_first, Layout::padded,
                                      Layout::misaligned};
std::string text(Layout layout);

struct AttentionInputs {
  Tensor q, k, v, dy;
  Layout layout = Layout::dense;

  AttentionInputs() = default;
  /// N(0, 1).
  AttentionInputs(int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t width, DType dtype);
  /// The same numbers in other memory; dense where fused is not possible.
  AttentionInputs as(Layout layout) const;
  std::string text() const;
};

/// Output, log-sum-exp and gradients on the inputs' device.
struct AttentionOutputs {
  Tensor y, log_sum_exp, dq, dk, dv;

  Tensors all() const { return {y, log_sum_exp, dq, dk, dv}; }
};
AttentionOutputs run_attention(const AttentionInputs& in, AttentionOptions options, AttentionBackend backend);
inline AttentionOutputs flash(const AttentionInputs& in, const AttentionOptions& options = {}) {
  return run_attention(in, options, AttentionBackend::flash);
}

/// No element of the output and the gradients of the first head is further off the reference than the roundings of its
/// own terms explain, given the output as it was stored. In 16 bits.
void expect_explained(const AttentionInputs& in, const AttentionOutputs& got, const AttentionOptions& options = {});

/// Flash agrees with the reference within attention_bounds, and has at most twice the root mean square error of math
/// in the same dtype (gradients: three times) unless its roundings explain more, on the first, a middle and the last
/// head; the other heads are finite. `gain`: the largest element of q and k where they are not N(0, 1): rounding of dS
/// reaches the gradients times that.
void expect_agrees(const AttentionInputs& in, const AttentionOptions& options = {}, const std::string& what = {},
                   double gain = 1);

}  // namespace camo::test
