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
    const auto allocate = [&](int i, const Tensor& x) {
      return needs(i) ? empty(x.shape(), x.dtype(), x.device()) : Tensor();
    };
    const AttentionGradients gradients{allocate(0, *q), allocate(1, *k), allocate(2, *v)};
    const AttentionProblem problem = problem_of(*q, *k, *v, all, scale);
    const Tensor dy_rows = rows_contiguous(dy[0]);
    if (!q->is_cuda()) backward_cpu(problem, *y, *log_sum_exp, dy_rows, gradients);
#ifdef CAMO_WITH_CUDA
    else backward_cuda(problem, *y, *log_sum_exp, dy_rows, gradients);
#endif
    return {gradients.dq, gradients.dk, gradients.dv};
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
