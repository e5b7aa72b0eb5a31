#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/launch.h"
#include "ops/attention/flash.h"
#include "ops/shape_ops.h"

namespace camo::flash {
namespace {

constexpr int kMostMmaWidth = 128;             // the widest heads of the kernels for every device
constexpr int kLeastHopperBackwardWidth = 33;  // below, the backward kernels for every device are faster

/// The widest access that every row of x allows, at most 16 bytes.
template <class T>
int access_of(const Tensor& x) {
  constexpr int64_t kSize = sizeof(T);
  for (const int64_t bytes : {16, 8, 4}) {
    bool fits = cuda::is_aligned(x.raw_data(), static_cast<size_t>(bytes));
    for (int axis = 0; axis < 3; ++axis) fits &= x.size(axis) == 1 || x.stride(axis) * kSize % bytes == 0;
    if (fits && x.size(3) * kSize % bytes == 0) return static_cast<int>(bytes);
  }
  return kSize;
}

template <class T>
Heads<T> heads_of(const Tensor& x) {
  using Element = std::remove_const_t<T>;
  if (!x.defined()) return {};
  return {x.data<Element>(), x.stride(0), x.stride(1), x.stride(2), access_of<Element>(x)};
}

template <class T>
Call<T> call_of(const AttentionProblem& problem) {
  Call<T> call;
  call.q = heads_of<const T>(problem.q);
  call.k = heads_of<const T>(problem.k);
  call.v = heads_of<const T>(problem.v);
  call.batch = static_cast<int>(problem.batch());
  call.heads = static_cast<int>(problem.heads());
  call.queries = static_cast<int>(problem.queries());
  call.keys = static_cast<int>(problem.keys());
  call.width = static_cast<int>(problem.width());
  call.scale = static_cast<float>(problem.scale);
  Rules& rules = call.rules;
  if (problem.mask.defined()) {
    rules.mask = problem.mask.raw_data();
    rules.kind = problem.mask.dtype() == boolean ? MaskKind::boolean : MaskKind::additive;
    for (int axis = 0; axis < 4; ++axis) rules.strides[axis] = problem.mask_strides[axis];
  }
  rules.causal = problem.causal;
  rules.dropout = static_cast<float>(problem.dropout);
  rules.keep_scale = problem.dropout < 1 ? static_cast<float>(1 / (1 - problem.dropout)) : 0.0f;
  rules.key = problem.dropout_key;
  return call;
}

/// A copy of x [B, N, H, D] whose rows begin at multiples of 16 bytes.
Tensor with_aligned_rows(const Tensor& x) {
  constexpr int64_t kPiece = 8;  // 16-bit elements
  const int64_t width = (x.size(3) + kPiece - 1) / kPiece * kPiece;
  const Tensor copy = slice(empty({x.size(0), x.size(1), x.size(2), width}, x.dtype(), x.device()), 3, 0, x.size(3));
  copy_into(copy, x);
  return copy;
}
AttentionProblem with_aligned_rows(AttentionProblem problem) {
  for (Tensor* x : {&problem.q, &problem.k, &problem.v}) *x = with_aligned_rows(*x);
  return problem;
}

template <class Fn>
void dispatch(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32: return fn.template operator()<float>();
    case DType::f16: return fn.template operator()<Half>();
    case DType::bf16: return fn.template operator()<BFloat16>();
    default: fail(ErrorCode::general, "scaled_dot_product_attention: flash has no CUDA kernel for ", dtype);
  }
}

}  // namespace

void forward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp) {
  dispatch(problem.q.dtype(), [&]<class T>() {
    Call<T> call = call_of<T>(problem);
    call.out = heads_of<T>(y);
    call.log_sum_exp = log_sum_exp.data<float>();
    if constexpr (sizeof(T) == 2) {
      if (call.width >= kLeastHopperWidth && has_hopper_kernels(y.device())) {
        if (hopper_takes_forward(call)) return forward_hopper(call, y.device());
        if (call.width > kMostMmaWidth) return forward_cuda(with_aligned_rows(problem), y, log_sum_exp);
      }
    }
    forward<T>(call, y.device());
  });
}

void backward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                   const AttentionGradients& gradients) {
  dispatch(problem.q.dtype(), [&]<class T>() {
    Call<T> call = call_of<T>(problem);
    call.y = heads_of<const T>(y);
    call.dy = heads_of<const T>(dy);
    call.dq = heads_of<T>(gradients.dq);
    call.dk = heads_of<T>(gradients.dk);
    call.dv = heads_of<T>(gradients.dv);
    call.log_sum_exp = log_sum_exp.data<float>();
    if constexpr (sizeof(T) == 2) {
      if (call.width >= kLeastHopperBackwardWidth && has_hopper_kernels(y.device())) {
        if (hopper_takes_backward(call)) return backward_hopper(call, y.device());
        if (call.width > kMostMmaWidth) {
          return backward_cuda(with_aligned_rows(problem), y, log_sum_exp, with_aligned_rows(dy), gradients);
        }
      }
    }
    const Tensor delta = empty(log_sum_exp.shape(), f32, y.device());
    call.delta = delta.data<float>();
    backward<T>(call, y.device());
  });
}

}  // namespace camo::flash
