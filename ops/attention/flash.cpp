// y = softmax(scale * q k^T + mask) v, tile by tile. Keeps q, k, v, y and the log-sum-exp of each query; backward
// computes the scores again. f32 sums (f64 for f64); gradients as in ops/attention.cu.
#include "ops/attention/flash.h"

#include "core/autograd.h"
#include "ops/attention/tiled_cpu.h"
#ifdef CAMO_WITH_CUDA
#include "ops/attention/cuda/launch.h"
#endif

namespace camo::flash {

Tensor rows_contiguous(const Tensor& x) { return x.stride(3) == 1 || x.size(3) == 1 ? x.detach() : clone(x); }

namespace {

AttentionProblem problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                            double scale) {
  AttentionProblem problem{rows_contiguous(q), rows_contiguous(k), rows_contiguous(v), options.mask};
  problem.causal = options.causal;
  problem.dropout = options.dropout;
  problem.dropout_key = options.dropout_key;
  problem.scale = scale;
  if (const Tensor& mask = options.mask; mask.defined()) {
    for (int axis = 4 - mask.dims(), i = 0; i < mask.dims(); ++i, ++axis) {
      problem.mask_strides[axis] = mask.shape()[i] == 1 ? 0 : mask.strides()[i];
    }
  }
  return problem;
}

struct FlashAttentionNode final : Node {
  FlashAttentionNode(const AttentionOptions& options_, double scale_)
      : Node("scaled_dot_product_attention"), options(options_), scale(scale_) {
    options.mask = {};
  }
  Saved q{this, "q"}, k{this, "k"}, v{this, "v"}, y{this, "y"}, log_sum_exp{this, "log_sum_exp"}, mask{this, "mask"};
  AttentionOptions options;  // without the mask
  double scale;

  Tensors backward(const Tensors& dy) override {
    AttentionOptions all = options;
    if (mask.defined()) all.mask = *mask;
    const AttentionGradients gradients = allocate();
    const AttentionProblem problem = problem_of(*q, *k, *v, all, scale);
    const Tensor dy_rows = rows_contiguous(dy[0]);
    if (!q->is_cuda()) backward_cpu(problem, *y, *log_sum_exp, dy_rows, gradients);
#ifdef CAMO_WITH_CUDA
    else backward_cuda(problem, *y, *log_sum_exp, dy_rows, gradients);
#endif
    return {gradients.dq, gradients.dk, gradients.dv};
  }

 private:
  /// Side by side in one tensor [B, N, 3, H, D] where q, k and v are so: split() then has nothing to join.
  AttentionGradients allocate() const {
    const Tensor *in[] = {&*q, &*k, &*v}, &first = *q;
    const int64_t tokens = first.size(1), channels = first.size(2) * first.size(3), row = 3 * channels;
    const Shape strides{tokens * row, row, first.size(3), 1};
    bool fused = true;
    for (int i = 0; i < 3; ++i) {
      fused = fused && needs(i) && in[i]->shape() == first.shape() && in[i]->storage() == first.storage() &&
              in[i]->strides() == strides && in[i]->offset() == first.offset() + i * channels;
    }
    Tensor out[3];
    if (fused) {
      const Tensor all = empty({first.size(0), tokens, 3, first.size(2), first.size(3)}, first.dtype(), first.device());
      for (int i = 0; i < 3; ++i) out[i] = make_view(all, first.shape(), strides, i * channels);
    } else {
      for (int i = 0; i < 3; ++i) {
        if (needs(i)) out[i] = empty(in[i]->shape(), in[i]->dtype(), in[i]->device());
      }
    }
    return {out[0], out[1], out[2]};
  }
};

}  // namespace

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                          double scale) {
  const AttentionProblem problem = problem_of(q, k, v, options, scale);
  const Tensor y = empty(q.shape(), q.dtype(), q.device());
  const Tensor log_sum_exp = empty({q.size(0), q.size(2), q.size(1)}, q.is_cuda() ? f32 : q.dtype(), q.device());
  if (!q.is_cuda()) forward_cpu(problem, y, log_sum_exp);
#ifdef CAMO_WITH_CUDA
  else forward_cuda(problem, y, log_sum_exp);
#endif
  if (auto* node = record<FlashAttentionNode>(y, {q, k, v}, options, scale)) {
    node->q = problem.q;
    node->k = problem.k;
    node->v = problem.v;
    node->y = y;
    node->log_sum_exp = log_sum_exp;
    if (options.mask.defined()) node->mask = options.mask;
  }
  return {y, log_sum_exp};
}

}  // namespace camo::flash
