#include <algorithm>
#include <optional>

#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/launch.h"
#include "ops/attention/flash.h"
#include "ops/attention/window.h"
#include "ops/shape_ops.h"

namespace camo::flash {
namespace {

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

/// Where the rows of a tensor [B, N, H, D] begin in their pieces of 16 bytes, in 16-bit elements: of the first head,
/// and how much further from head to head.
struct Phase {
  int64_t first = 0, per_head = 0;
  int64_t of(int64_t head) const { return (first + head * per_head) % kPiece; }
  bool operator==(const Phase&) const = default;
};

/// Nothing where the rows of a head differ. Of one head, per_head is 0.
std::optional<Phase> phase_of(const Tensor& x) {
  for (const int axis : {0, 1}) {
    if (x.size(axis) > 1 && x.stride(axis) % kPiece != 0) return {};
  }
  const auto first = static_cast<int64_t>(reinterpret_cast<uintptr_t>(x.raw_data()) % 16 / 2);
  return Phase{first, x.size(2) == 1 ? 0 : (x.stride(2) % kPiece + kPiece) % kPiece};
}

constexpr int64_t kWidestWindow = 256;  // what kernels hold of a row

/// Whether windows of packed_window() columns hold all rows, and pairs of columns of an even width stand at even ones.
bool fits_windows(const Phase& phase, int64_t heads, int64_t width) {
  for (int64_t h = 0; h < std::min(heads, kPiece); ++h) {  // phases repeat after that many
    if (phase.of(h) + width > std::min(packed_window(width), kWidestWindow) || (width % 2 == 0 && phase.of(h) % 2 != 0))
      return false;
  }
  return true;
}

/// The phase that the tensors of a call shall have: that of q, or none where it does not fit.
Phase call_phase(const Tensor& q) {
  const std::optional<Phase> phase = phase_of(q);
  return phase && fits_windows(*phase, q.size(2), q.size(3)) ? *phase : Phase{};
}

/// A copy of x whose rows have the phase.
Tensor copy_in_phase(const Tensor& x, const Phase& phase) {
  const int64_t heads = x.size(2), width = x.size(3);
  const int64_t step = width + ((phase.per_head - width) % kPiece + kPiece) % kPiece;  // from head to head
  const int64_t row = (phase.first + heads * step + kPiece - 1) / kPiece * kPiece;
  const Tensor memory = zeros({x.size(0), x.size(1), row}, x.dtype(), x.device());
  const Tensor copy = make_view(memory, x.shape(), {x.size(1) * row, row, step, 1}, phase.first);
  copy_into(copy, x);
  return copy;
}

/// x itself where its rows have the phase.
Tensor in_phase(const Tensor& x, const Phase& phase) {
  std::optional<Phase> own = phase_of(x);
  return own == phase ? x : copy_in_phase(x, phase);
}

/// The same call on tensors that the kernels for aligned rows read: a matter of memory alone, for sums are grouped by
/// the phases of q's rows, which stay as they are wherever windows can hold them.
AttentionProblem in_phase(AttentionProblem problem, const Phase& phase) {
  for (Tensor* x : {&problem.q, &problem.k, &problem.v}) *x = in_phase(*x, phase);
  return problem;
}
AttentionProblem copy_in_phase(AttentionProblem problem, const Phase& phase) {
  for (Tensor* x : {&problem.q, &problem.k, &problem.v}) *x = copy_in_phase(*x, phase);
  return problem;
}

AttentionCase case_of(const AttentionProblem& problem, Pass pass) {
  AttentionCase call{problem.q.device(), problem.q.dtype(), problem.queries(), problem.keys(), problem.width()};
  call.plain = !problem.mask.defined() && problem.dropout <= 0 && static_cast<float>(problem.scale) > 0;
  call.causal = problem.causal;
  call.pass = pass;
  return call;
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

/// The call of the backward pass.
template <class T>
Call<T> backward_call_of(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                         const AttentionGradients& gradients) {
  Call<T> call = call_of<T>(problem);
  call.y = heads_of<const T>(y);
  call.dy = heads_of<const T>(dy);
  call.dq = heads_of<T>(gradients.dq);
  call.dk = heads_of<T>(gradients.dk);
  call.dv = heads_of<T>(gradients.dv);
  call.log_sum_exp = log_sum_exp.data<float>();
  return call;
}

/// Where TMA cannot follow the tensors, it follows copies.
template <class T>
void backward_wgmma(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                    const AttentionGradients& gradients) {
  const Call<T> call = backward_call_of<T>(problem, y, log_sum_exp, dy, gradients);
  if (hopper_takes_backward(call)) return backward_hopper(call, y.device());
  const Phase phase = call_phase(problem.q);
  const AttentionProblem copied = copy_in_phase(problem, phase);
  const Tensor grads = copy_in_phase(dy, phase);
  backward_hopper(backward_call_of<T>(copied, y, log_sum_exp, grads, gradients), y.device());
}

/// As backward_wgmma, of tensors in phase.
template <class T>
void backward_short(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                    const AttentionGradients& gradients) {
  const Phase phase = call_phase(problem.q);
  const AttentionProblem aligned = in_phase(problem, phase);
  const Tensor out = in_phase(y, phase), grads = in_phase(dy, phase);
  const Call<T> call = backward_call_of<T>(aligned, out, log_sum_exp, grads, gradients);
  if (hopper_takes_short(call)) return backward_hopper_short(call, y.device());
  const AttentionProblem copied = copy_in_phase(problem, phase);
  const Tensor copied_grads = copy_in_phase(dy, phase);
  backward_hopper_short(backward_call_of<T>(copied, out, log_sum_exp, copied_grads, gradients), y.device());
}

}  // namespace

void forward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp) {
  const Kernel kernel = kernel_of(case_of(problem, Pass::forward));
  dispatch(problem.q.dtype(), [&]<class T>() {
    const auto call = [&](const AttentionProblem& inputs) {
      Call<T> all = call_of<T>(inputs);
      all.rounded = kernel == Kernel::rounded;
      all.out = heads_of<T>(y);
      all.log_sum_exp = log_sum_exp.data<float>();
      return all;
    };
    if constexpr (sizeof(T) == 2) {
      const Phase phase = call_phase(problem.q);
      if (kernel == Kernel::narrow) {
        const AttentionProblem aligned = in_phase(problem, phase);
        return forward_narrow<T>(call(aligned), y.device());
      }
      if (kernel == Kernel::wgmma || kernel == Kernel::resident) {
        const auto run = kernel == Kernel::wgmma ? forward_hopper<T> : forward_hopper_resident<T>;
        if (const Call<T> all = call(problem); hopper_takes_forward(all)) return run(all, y.device());
        const AttentionProblem copied = copy_in_phase(problem, phase);
        return run(call(copied), y.device());
      }
    }
    forward<T>(call(problem), y.device());
  });
}

void backward_cuda(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                   const AttentionGradients& gradients) {
  const Kernel kernel = kernel_of(case_of(problem, Pass::backward));
  dispatch(problem.q.dtype(), [&]<class T>() {
    if constexpr (sizeof(T) == 2) {
      if (kernel == Kernel::wgmma) return backward_wgmma<T>(problem, y, log_sum_exp, dy, gradients);
      if (kernel == Kernel::short_wgmma) return backward_short<T>(problem, y, log_sum_exp, dy, gradients);
      if (kernel == Kernel::narrow || kernel == Kernel::whole) {
        const Phase phase = call_phase(problem.q);
        const AttentionProblem aligned = in_phase(problem, phase);
        const Tensor out = in_phase(y, phase), grads = in_phase(dy, phase);
        const Call<T> call = backward_call_of<T>(aligned, out, log_sum_exp, grads, gradients);
        return kernel == Kernel::narrow ? backward_narrow(call, y.device()) : backward_whole(call, y.device());
      }
    }
    Call<T> call = backward_call_of<T>(problem, y, log_sum_exp, dy, gradients);
    call.rounded = kernel == Kernel::rounded;
    Tensor delta;
    if constexpr (sizeof(T) == 2) {
      delta = empty(log_sum_exp.shape(), f32, y.device());
      call.delta = delta.data<float>();
    }
    backward<T>(call, y.device());
  });
}

}  // namespace camo::flash
