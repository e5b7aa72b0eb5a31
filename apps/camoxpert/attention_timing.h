// The time, memory and error of attention at one shape, for `bench attention` and `verify-attention --benchmark`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "apps/camoxpert/bench/op_cost.h"
#include "ops/attention.h"

namespace camo::app {

struct AttentionShape {
  int64_t batch = 1, tokens = 1, heads = 1, width = 1;  // width: channels of a head

  int64_t scores() const { return batch * heads * tokens * tokens; }
  std::string text() const;  // B16 H8 N2304 D20
};

/// What a call computes in. On a GPU, f32 and TF32 (the same tensors in a Tf32Scope(true)) are two.
struct Arithmetic {
  DType dtype = f32;
  bool tf32 = false;

  std::string_view name() const { return tf32 ? "tf32" : camo::name(dtype); }
};

/// Where q, k and v lie.
enum class AttentionInput {
  dense,  // three tensors [B, N, H, D]: the attention alone
  fused,  // slices of the projection's [B, N, 3 H D], whose whole gradient is made: what a network pays
};

struct AttentionTiming {
  double forward_ms = 0, backward_ms = 0;  // medians of one call
  int64_t peak_bytes = 0;                  // most memory of a forward and backward pass beyond q, k, v and dy
};

/// On CUDA the median over launches of a graph that calls attention on inputs in turn, which together outgrow the L2
/// cache; on the CPU the median over calls. About `seconds` for each direction; fewer calls than 3 never.
AttentionTiming time_attention(const AttentionShape& shape, DType dtype, Device device, AttentionBackend backend,
                               AttentionInput input, double seconds);

/// Largest differences from f64 math on the same numbers, over one head.
struct AttentionError {
  double output = 0, gradient = 0;  // gradient: of q, k and v, relative to its largest element (or 1)
};
AttentionError attention_error(const AttentionShape& shape, DType dtype, Device device, AttentionBackend backend);

/// Milliseconds below which attention cannot be. 0: not known for this device.
struct AttentionFloor {
  double forward_ms = 0, backward_ms = 0;
};
/// The largest of: products on tensor cores (QK^T of depth D rounded up to 16, PV of width D rounded up to 8; backward
/// has two of the first kind and three of the second; f32 counts three 16-bit products for each, one where TF32 is
/// allowed), exponentials (on Hopper 25.4 a clock and multiprocessor, mixed from both units that can compute them), and
/// bytes read and written once.
AttentionFloor attention_floor(const AttentionShape& shape, DType dtype, Device device);

}  // namespace camo::app
