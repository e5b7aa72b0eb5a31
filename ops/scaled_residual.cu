// y = x + branch * gamma, gamma one number a channel (LayerScale, arXiv:2103.17239).   x, branch, y [M, C], gamma [C]
//
// dx = dy, dbranch = dy * gamma, dgamma = sum over rows of dy * branch. Keeps branch and gamma. x and branch may differ
// in dtype, gamma may be f32 beside a 16-bit branch, and sums are in f32. On CUDA one pass forward and one backward.
#include "core/autograd.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/elementwise.h"
#include "ops/normalization.h"
#ifdef __CUDACC__
#include "core/cuda/packs.cuh"
#include "ops/detail/column_reduce.cuh"
#include "ops/detail/parameters.cuh"
#endif

namespace camo {
namespace {

using detail::Rows;

template <class T>
void scaled_residual_cpu(const Rows& x, const Rows& branch, const T* gamma, T* y) {
  const int64_t width = x.width;
  parallel_for(x.count, detail::row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x.row<T>(row);
      const T* added = branch.row<T>(row);
      T* out = y + row * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) out[c] = in[c] + added[c] * gamma[c];
    }
  });
}

// --- CUDA ---

#ifdef __CUDACC__

/// R is the dtype of y, as wide as the widest operand.
template <class X, class B, class R, int N>
struct Forward {
  using A = cuda::Accumulator<R>;
  static constexpr int kWidth = N;
  const X* x;
  const B* branch;
  const A* gamma;
  R* y;
  int64_t x_stride, branch_stride, width;

  struct Parameters {
    A gamma[N];
  };
  __device__ Parameters parameters(int64_t, int64_t column) const {
    Parameters result;
    cuda::load_constants<N>(gamma + column, result.gamma);
    return result;
  }
  __device__ void apply(int64_t, int64_t row, int64_t column, const Parameters& scale) const {
    A in[N], added[N];
    cuda::load_constants<N>(x + row * x_stride + column, in);
    cuda::load_constants<N>(branch + row * branch_stride + column, added);
#pragma unroll
    for (int i = 0; i < N; ++i) in[i] += added[i] * scale.gamma[i];
    cuda::store_values<N>(y + row * width + column, in);
  }
};

/// dbranch on the way to dgamma. dbranch may be null.
template <class R, class B, int N>
struct Backward {
  using A = cuda::Accumulator<R>;
  using Partial = detail::ColumnSum<A>;
  using Total = detail::ColumnSum<double>;
  static constexpr int kWidth = N;
  const R* dy;
  const B* branch;
  const A* gamma;
  B* dbranch;
  A* dgamma;
  int64_t dy_stride, branch_stride, width;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    A g[N], added[N];
    cuda::load_constants<N>(dy + row * dy_stride + column, g);
    cuda::load_constants<N>(branch + row * branch_stride + column, added);
#pragma unroll
    for (int i = 0; i < N; ++i) partial[i].sum += g[i] * added[i];
    if (dbranch == nullptr) return;
    A scale[N];
    cuda::load_constants<N>(gamma + column, scale);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] *= scale[i];
    cuda::store_values<N>(dbranch + row * width + column, g);
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    dgamma[column] = static_cast<A>(total.sum);
  }
};

/// Calls fn.template operator()<X, B>() with the element types of x and the branch: equal, or f32 and a 16-bit type in
/// any order.
template <class Fn>
void dispatch_pair(DType x, DType branch, Fn&& fn) {
  const auto mixed = [&]<class Low>() {
    if (x == branch) fn.template operator()<Low, Low>();
    else if (x == f32) fn.template operator()<float, Low>();
    else fn.template operator()<Low, float>();
  };
  if (x == f16 || branch == f16) return mixed.template operator()<Half>();
  if (x == bf16 || branch == bf16) return mixed.template operator()<BFloat16>();
  if (x == f64) return fn.template operator()<double, double>();
  fn.template operator()<float, float>();
}

template <class X, class B, class R>
void forward_cuda(const Rows& x, const Rows& branch, const Tensor& gamma, const Tensor& y) {
  using A = cuda::Accumulator<R>;
  const Tensor scale = detail::parameter<A>(gamma);
  const X* in = x.row<X>(0);
  const B* added = branch.row<B>(0);
  using Widest = std::conditional_t<(sizeof(X) > sizeof(B)), X, std::conditional_t<(sizeof(R) > sizeof(B)), R, B>>;
  cuda::dispatch_pack<Widest>({{in, added, y.raw_data()}, {x.width, x.stride, branch.stride}}, [&]<int N>() {
    detail::column_map(y.device(), 1, x.count, x.width, "scaled_residual",
                       Forward<X, B, R, N>{in, added, scale.data<A>(), y.data<R>(), x.stride, branch.stride, x.width});
  });
}

template <class R, class B>
void backward_cuda(const Rows& dy, const Rows& branch, const Tensor& gamma, const Tensor& dbranch,
                   const Tensor& dgamma) {
  using A = cuda::Accumulator<R>;
  const Tensor scale = detail::parameter<A>(gamma);
  const detail::ParameterTarget<A> target(dgamma, branch.width, gamma.device());
  const R* g = dy.row<R>(0);
  const B* added = branch.row<B>(0);
  B* out = dbranch.defined() ? dbranch.data<B>() : nullptr;
  using Widest = std::conditional_t<(sizeof(R) > sizeof(B)), R, B>;
  cuda::dispatch_pack<Widest>({{g, added, out}, {branch.width, dy.stride, branch.stride}}, [&]<int N>() {
    detail::column_reduce(
        gamma.device(), 1, branch.count, branch.width, "scaled_residual",
        Backward<R, B, N>{g, added, scale.data<A>(), out, target.data(), dy.stride, branch.stride, branch.width});
  });
  target.store();
}
#endif

void forward_on_device([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& branch,
                       [[maybe_unused]] const Tensor& gamma, [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  if (y.numel() == 0) return;
  const Rows in = detail::as_rows(x), added = detail::as_rows(branch);
  dispatch_pair(x.dtype(), branch.dtype(), [&]<class X, class B>() {
    using Wider = std::conditional_t<(sizeof(X) > sizeof(B)), X, B>;
    if (y.dtype() == dtype_of<Wider>) return forward_cuda<X, B, Wider>(in, added, gamma, y);
    if constexpr (sizeof(Wider) == 2) forward_cuda<X, B, float>(in, added, gamma, y);  // gamma is f32
  });
#endif
}

void backward_on_device([[maybe_unused]] const Tensor& dy, [[maybe_unused]] const Tensor& branch,
                        [[maybe_unused]] const Tensor& gamma, [[maybe_unused]] const Tensor& dbranch,
                        [[maybe_unused]] const Tensor& dgamma) {
#ifdef __CUDACC__
  if (branch.numel() == 0) {
    if (dgamma.defined()) fill(dgamma, 0);
    return;
  }
  const Rows g = detail::as_rows(dy), added = detail::as_rows(branch);
  dispatch_pair(dy.dtype(), branch.dtype(),
                [&]<class R, class B>() { backward_cuda<R, B>(g, added, gamma, dbranch, dgamma); });
#endif
}

struct ScaledResidualNode final : Node {
  explicit ScaledResidualNode(DType of_x) : Node("scaled_residual"), x_dtype(of_x) {}
  DType x_dtype;
  Saved branch{this, "branch"}, gamma{this, "gamma"};

  Tensors backward(const Tensors& dy) override {
    Tensors grads(3);
    if (needs(0)) grads[0] = to(dy[0], x_dtype);
    if (!dy[0].is_cuda()) {
      if (needs(1)) grads[1] = mul(dy[0], *gamma);
      if (needs(2)) grads[2] = detail::sum_product_to(dy[0], *branch, gamma->shape());
      return grads;
    }
    if (needs(1)) grads[1] = empty(branch->shape(), branch->dtype(), branch->device());
    if (needs(2)) grads[2] = empty(gamma->shape(), gamma->dtype(), gamma->device());
    if (needs(1) || needs(2)) backward_on_device(dy[0], *branch, *gamma, grads[1], grads[2]);
    return grads;
  }
};

}  // namespace

Tensor scaled_residual(const Tensor& x, const Tensor& branch, const Tensor& gamma) {
  CAMO_CHECK(x.dims() >= 1 && x.shape() == branch.shape(), "scaled_residual: x and branch must have one shape; got x ",
             x.shape(), ", branch ", branch.shape());
  CAMO_CHECK(gamma.shape() == Shape{x.size(-1)}, "scaled_residual: gamma must be ", Shape{x.size(-1)},
             ", the last dimension of x; got gamma ", gamma.shape(), ", x ", x.shape());
  detail::check_same_device("scaled_residual", {x, branch, gamma});
  CAMO_CHECK(is_floating(x.dtype()), "scaled_residual: computes in floating dtypes; got ", x.dtype());
  DType result = x.dtype();
  for (const Tensor* operand : {&branch, &gamma}) {
    const DType dtype = operand->dtype();
    const bool mixes = (detail::is_16_bit(result) && dtype == f32) || (result == f32 && detail::is_16_bit(dtype));
    CAMO_CHECK(dtype == result || mixes,
               "scaled_residual: operands must have one dtype, or f32 beside a 16-bit one; got x ", x.dtype(),
               ", branch ", branch.dtype(), ", gamma ", gamma.dtype());
    if (mixes) result = f32;
  }
  if (detail::needs_f32(x) || detail::needs_f32(branch) || detail::needs_f32(gamma)) {
    return detail::in_f32({x, branch, gamma}, result,
                          [](const Tensors& in) { return scaled_residual(in[0], in[1], in[2]); });
  }
  const Tensor y = empty(x.shape(), result, x.device());
  if (x.is_cuda()) {
    forward_on_device(x, branch, gamma, y);
  } else {
    dispatch_floating(x.dtype(), "scaled_residual", [&]<class T>() {
      const Tensor scale = detail::dense(gamma);
      scaled_residual_cpu<T>(detail::as_rows(x), detail::as_rows(branch), scale.data<T>(), y.data<T>());
    });
  }
  if (auto* node = record<ScaledResidualNode>(y, {x, branch, gamma}, x.dtype())) {
    node->branch = branch;
    node->gamma = gamma;
  }
  return y;
}

}  // namespace camo
