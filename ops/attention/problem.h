// One call of attention, as the implementations in this folder take it.
#pragma once

#include "core/tensor.h"
#include "ops/attention.h"

namespace camo::flash {

struct AttentionProblem {
  Tensor q, k, v;                            // [B, N, H, D], contiguous along D, outside of any graph
  Tensor mask;                               // bool or floating, or undefined
  Shape mask_strides = Shape::filled(4, 0);  // over [B, H, Nq, Nk]; 0 where the mask is repeated
  bool causal = false;
  double dropout = 0;
  RandomKey dropout_key{};
  double scale = 1;

  int64_t batch() const { return q.size(0); }
  int64_t queries() const { return q.size(1); }
  int64_t keys() const { return k.size(1); }
  int64_t heads() const { return q.size(2); }
  int64_t width() const { return q.size(3); }
};

/// Of q, k and v; undefined when not wanted.
struct AttentionGradients {
  Tensor dq, dk, dv;
};

/// x itself when it is contiguous along its last axis, else a copy that is.
Tensor rows_contiguous(const Tensor& x);

}  // namespace camo::flash
