// y = x / d along one axis, d = max(|x|, eps) with the Euclidean norm.
//
// dx = (dy - y * sum(dy * y)) / d where |x| > eps, dy / d elsewhere. Keeps y and 1 / d. Squares are summed in the dtype
// of x (f32 for 16-bit x).
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/normalization.h"
#ifdef __CUDACC__
#include "ops/detail/column_reduce.cuh"
#endif

namespace camo {
namespace {

using detail::Slabs;

constexpr int64_t kChunk = 256;  // inner elements handled together: their sums stay in cache

/// Calls body(slab, first, last) for ranges of inner elements of each slab.
template <class Body>
void for_each_slab(int64_t outer, int64_t extent, int64_t inner, Body&& body) {
  const int64_t chunks = (inner + kChunk - 1) / kChunk;
  parallel_for(outer * chunks, detail::row_grain(extent * std::min(inner, kChunk)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * kChunk;
      body(i / chunks, first, std::min(inner, first + kChunk));
    }
  });
}

template <class T>
void normalize_slabs(const Slabs& x, double eps, T* y, T* inverse) {
  for_each_slab(x.outer, x.extent, x.inner, [&](int64_t slab, int64_t first, int64_t last) {
    const T* in = x.x.data<T>() + slab * x.outer_stride;
    T* out = y + slab * x.extent * x.inner;
    T* scale = inverse + slab * x.inner;
    if (x.inner == 1) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < x.extent; ++i) sum += in[i] * in[i];
      scale[0] = 1 / std::max(std::sqrt(sum), static_cast<T>(eps));
#pragma omp simd
      for (int64_t i = 0; i < x.extent; ++i) out[i] = in[i] * scale[0];
      return;
    }
    std::fill(scale + first, scale + last, T(0));
    for (int64_t i = 0; i < x.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) scale[j] += in[i * x.stride + j] * in[i * x.stride + j];
    }
    for (int64_t j = first; j < last; ++j) scale[j] = 1 / std::max(std::sqrt(scale[j]), static_cast<T>(eps));
    for (int64_t i = 0; i < x.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) out[i * x.inner + j] = in[i * x.stride + j] * scale[j];
    }
  });
}

template <class T>
void normalize_slabs_backward(const Slabs& y, const T* dy, const T* inverse, double eps, T* dx) {
  const T limit = 1 / static_cast<T>(eps);  // 1 / d there: the norm was at or below eps
  for_each_slab(y.outer, y.extent, y.inner, [&](int64_t slab, int64_t first, int64_t last) {
    const int64_t offset = slab * y.extent * y.inner, inner = y.inner;
    const T* out = y.x.data<T>() + offset;
    const T* g = dy + offset;
    T* grad = dx + offset;
    const T* scale = inverse + slab * inner;
    T dot[kChunk] = {};
    if (inner == 1) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < y.extent; ++i) sum += g[i] * out[i];
      dot[0] = scale[0] < limit ? sum : T(0);
#pragma omp simd
      for (int64_t i = 0; i < y.extent; ++i) grad[i] = (g[i] - out[i] * dot[0]) * scale[0];
      return;
    }
    for (int64_t i = 0; i < y.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) dot[j - first] += g[i * inner + j] * out[i * inner + j];
    }
    for (int64_t j = first; j < last; ++j) dot[j - first] = scale[j] < limit ? dot[j - first] : T(0);
    for (int64_t i = 0; i < y.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) {
        grad[i * inner + j] = (g[i * inner + j] - out[i * inner + j] * dot[j - first]) * scale[j];
      }
    }
  });
}

// --- CUDA ---

#ifdef __CUDACC__
/// inverse = 1 / max(|x|, eps), [outer, inner].
template <class T, int N>
struct InverseNorms {
  using A = cuda::Accumulator<T>;
  using Partial = detail::ColumnSum<A>;
  using Total = detail::ColumnSum<double>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t outer_stride, stride, inner;
  A eps;
  A* inverse;

  __device__ void add(int64_t outer, int64_t row, int64_t column, Partial (&partial)[N]) const {
    A values[N];
    cuda::load_constants<N>(x + outer * outer_stride + row * stride + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) partial[i].sum += values[i] * values[i];
  }
  __device__ void finish(int64_t outer, int64_t column, const Total& total) const {
    const A norm = static_cast<A>(::sqrt(total.sum));
    inverse[outer * inner + column] = A(1) / (norm <= eps ? eps : norm);  // NaN stays
  }
};

template <class T, int N>
struct Scale {
  using A = cuda::Accumulator<T>;
  static constexpr int kWidth = N;
  const T* x;
  int64_t outer_stride, stride, extent, inner;
  const A* inverse;
  T* y;

  struct Parameters {
    A inverse[N];
  };
  __device__ Parameters parameters(int64_t outer, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) p.inverse[i] = inverse[outer * inner + column + i];
    return p;
  }
  __device__ void apply(int64_t outer, int64_t row, int64_t column, const Parameters& p) const {
    A values[N];
    cuda::load_constants<N>(x + outer * outer_stride + row * stride + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= p.inverse[i];
    cuda::store_values<N>(y + (outer * extent + row) * inner + column, values);
  }
};

/// dots = sum of dy * y where the norm counts, else 0, [outer, inner].
template <class T, int N>
struct GradientDots {
  using A = cuda::Accumulator<T>;
  using Partial = detail::ColumnSum<A>;
  using Total = detail::ColumnSum<double>;
  static constexpr int kWidth = N;
  const T *y, *dy;
  int64_t extent, inner;
  const A* inverse;
  A limit;
  A* dots;

  __device__ void add(int64_t outer, int64_t row, int64_t column, Partial (&partial)[N]) const {
    const int64_t at = (outer * extent + row) * inner + column;
    A out[N], g[N];
    cuda::load_constants<N>(y + at, out);
    cuda::load_constants<N>(dy + at, g);
#pragma unroll
    for (int i = 0; i < N; ++i) partial[i].sum += out[i] * g[i];
  }
  __device__ void finish(int64_t outer, int64_t column, const Total& total) const {
    const int64_t at = outer * inner + column;
    dots[at] = inverse[at] < limit ? static_cast<A>(total.sum) : A(0);
  }
};

template <class T, int N>
struct InputGradient {
  using A = cuda::Accumulator<T>;
  static constexpr int kWidth = N;
  const T *y, *dy;
  int64_t extent, inner;
  const A *inverse, *dots;
  T* dx;

  struct Parameters {
    A inverse[N], dots[N];
  };
  __device__ Parameters parameters(int64_t outer, int64_t column) const {
    Parameters p;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      p.inverse[i] = inverse[outer * inner + column + i];
      p.dots[i] = dots[outer * inner + column + i];
    }
    return p;
  }
  __device__ void apply(int64_t outer, int64_t row, int64_t column, const Parameters& p) const {
    const int64_t at = (outer * extent + row) * inner + column;
    A out[N], g[N];
    cuda::load_constants<N>(y + at, out);
    cuda::load_constants<N>(dy + at, g);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = (g[i] - out[i] * p.dots[i]) * p.inverse[i];
    cuda::store_values<N>(dx + at, g);
  }
};

/// Elements along the axis are contiguous: a warp a row.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    l2_normalize_row_kernel(const T* x, int64_t rows, int64_t stride, int64_t n, cuda::Accumulator<T> eps, T* y,
                            cuda::Accumulator<T>* inverse) {
  using A = cuda::Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * (cuda::kBlock / cuda::kWarp) + threadIdx.x / cuda::kWarp;
  if (row >= rows) return;
  const int lane = threadIdx.x % cuda::kWarp;
  const T* in = x + row * stride;
  A sum = 0;
  for (int64_t i = lane; i < n; i += cuda::kWarp) sum += convert<A>(in[i]) * convert<A>(in[i]);
  const A norm = ::sqrt(cuda::warp_sum(sum)), scale = A(1) / (norm <= eps ? eps : norm);  // NaN stays
  for (int64_t i = lane; i < n; i += cuda::kWarp) y[row * n + i] = convert<T>(convert<A>(in[i]) * scale);
  if (lane == 0) inverse[row] = scale;
}

template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    l2_normalize_row_backward_kernel(const T* y, const T* dy, int64_t rows, int64_t n,
                                     const cuda::Accumulator<T>* inverse, cuda::Accumulator<T> limit, T* dx) {
  using A = cuda::Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * (cuda::kBlock / cuda::kWarp) + threadIdx.x / cuda::kWarp;
  if (row >= rows) return;
  const int lane = threadIdx.x % cuda::kWarp;
  const T *out = y + row * n, *g = dy + row * n;
  A sum = 0;
  for (int64_t i = lane; i < n; i += cuda::kWarp) sum += convert<A>(out[i]) * convert<A>(g[i]);
  sum = cuda::warp_sum(sum);
  const A scale = inverse[row], dot = scale < limit ? sum : A(0);
  for (int64_t i = lane; i < n; i += cuda::kWarp) {
    dx[row * n + i] = convert<T>((convert<A>(g[i]) - convert<A>(out[i]) * dot) * scale);
  }
}

unsigned row_blocks(int64_t rows) {
  constexpr int64_t kRows = cuda::kBlock / cuda::kWarp;
  return static_cast<unsigned>((rows + kRows - 1) / kRows);
}
#endif

void normalize_cuda([[maybe_unused]] const Slabs& x, [[maybe_unused]] double eps, [[maybe_unused]] const Tensor& y,
                    [[maybe_unused]] const Tensor& inverse) {
#ifdef __CUDACC__
  if (inverse.numel() == 0) return;
  const Device device = y.device();
  cuda::dispatch_floating(y.dtype(), "l2_normalize", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    const T* in = x.x.data<T>();
    if (x.inner == 1) {
      cudaStream_t stream = cuda::use(device);
      l2_normalize_row_kernel<T><<<row_blocks(x.outer), cuda::kBlock, 0, stream>>>(
          in, x.outer, x.outer_stride, x.extent, static_cast<A>(eps), y.data<T>(), inverse.data<A>());
      CAMO_LAUNCHED("l2_normalize");
      return;
    }
    cuda::dispatch_pack<T>({{in, y.raw_data()}, {x.inner, x.stride, x.outer_stride}}, [&]<int N>() {
      detail::column_reduce(
          device, x.outer, x.extent, x.inner, "l2_normalize_norms",
          InverseNorms<T, N>{in, x.outer_stride, x.stride, x.inner, static_cast<A>(eps), inverse.data<A>()});
      detail::column_map(device, x.outer, x.extent, x.inner, "l2_normalize",
                         Scale<T, N>{in, x.outer_stride, x.stride, x.extent, x.inner, inverse.data<A>(), y.data<T>()});
    });
  });
#endif
}

void normalize_backward_cuda([[maybe_unused]] const Slabs& y, [[maybe_unused]] const Tensor& dy,
                             [[maybe_unused]] const Tensor& inverse, [[maybe_unused]] double eps,
                             [[maybe_unused]] const Tensor& dx) {
#ifdef __CUDACC__
  if (dx.numel() == 0) return;
  const Device device = dx.device();
  cuda::dispatch_floating(dx.dtype(), "l2_normalize", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    const A limit = A(1) / static_cast<A>(eps);
    const T *out = y.x.data<T>(), *g = dy.data<T>();
    const A* scale = inverse.data<A>();
    if (y.inner == 1) {
      cudaStream_t stream = cuda::use(device);
      l2_normalize_row_backward_kernel<T>
          <<<row_blocks(y.outer), cuda::kBlock, 0, stream>>>(out, g, y.outer, y.extent, scale, limit, dx.data<T>());
      CAMO_LAUNCHED("l2_normalize_backward");
      return;
    }
    const Tensor dots = empty(inverse.shape(), inverse.dtype(), device);
    cuda::dispatch_pack<T>({{out, g, dx.raw_data()}, {y.inner}}, [&]<int N>() {
      detail::column_reduce(device, y.outer, y.extent, y.inner, "l2_normalize_dots",
                            GradientDots<T, N>{out, g, y.extent, y.inner, scale, limit, dots.data<A>()});
      detail::column_map(device, y.outer, y.extent, y.inner, "l2_normalize_backward",
                         InputGradient<T, N>{out, g, y.extent, y.inner, scale, dots.data<A>(), dx.data<T>()});
    });
  });
#endif
}

struct L2NormalizeNode final : Node {
  L2NormalizeNode(int axis_, double eps_) : Node("l2_normalize"), axis(axis_), eps(eps_) {}
  Saved y{this, "y"}, inverse{this, "inverse"};
  int axis;
  double eps;

  Tensors backward(const Tensors& dy) override {
    Tensor dx = empty(y->shape(), y->dtype(), y->device());
    const Tensor g = detail::dense(dy[0]);
    if (y->is_cuda()) {
      normalize_backward_cuda(detail::as_slabs(*y, axis), g, *inverse, eps, dx);
      return {dx};
    }
    dispatch_floating(y->dtype(), "l2_normalize", [&]<class T>() {
      normalize_slabs_backward<T>(detail::as_slabs(*y, axis), g.data<T>(), inverse->data<T>(), eps, dx.data<T>());
    });
    return {dx};
  }
};

}  // namespace

Tensor l2_normalize(const Tensor& x, int axis, double eps) {
  axis = normalize_axis(axis, x.dims(), "l2_normalize");
  CAMO_CHECK(eps > 0, "l2_normalize: eps must be positive; got ", eps);
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [&](const Tensors& in) { return l2_normalize(in[0], axis, eps); });
  }
  const Slabs slabs = detail::as_slabs(x, axis);
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  const Tensor inverse = empty({slabs.outer * slabs.inner}, x.dtype() == f64 ? f64 : f32, x.device());
  if (x.is_cuda()) {
    normalize_cuda(slabs, eps, y, inverse);
  } else {
    dispatch_floating(x.dtype(), "l2_normalize",
                      [&]<class T>() { normalize_slabs<T>(slabs, eps, y.data<T>(), inverse.data<T>()); });
  }
  if (auto* node = record<L2NormalizeNode>(y, {x}, axis, eps)) {
    node->y = y;
    node->inverse = inverse;
  }
  return y;
}

}  // namespace camo
