#include "ops/detail/softmax_cuda.h"

#ifdef __CUDACC__
#include "ops/detail/max_sum.cuh"
#include "ops/detail/row_groups.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

constexpr int kLimit = 32;  // elements of a row in a lane's registers

template <class A>
__device__ A forward_value(A x, A shift, A normalizer, bool is_log) {
  return is_log ? (x - shift) - normalizer : exponential(x - shift) * normalizer;
}
template <class A>
__device__ A backward_term(A y, A dy, bool is_log) {
  return is_log ? dy : dy * y;
}
template <class A>
__device__ A backward_value(A y, A dy, A sum, bool is_log) {
  return is_log ? dy - exponential(y) * sum : y * (dy - sum);
}

/// A group of lanes a row, which stays in registers.   x [rows, stride], y [rows, packs * N]
template <class T, class Group>
__global__ void __launch_bounds__(cuda::kBlock)
    softmax_forward_kernel(const T* x, int64_t rows, int64_t stride, int packs, T* y, bool is_log) {
  using A = cuda::Accumulator<T>;
  constexpr int N = Group::N, P = Group::P;
  for (int64_t first = Group::first_row(); first < rows; first += Group::row_step()) {
    const int64_t row = first + Group::row_in_warp();
    const int row_packs = row < rows ? packs : 0;
    A values[P][N];
    Group::load(x + row * stride, row_packs, kHidden<A>, values);
    A top = kHidden<A>;
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) top = values[p][i] > top ? values[p][i] : top;
    }
    top = Group::max(top);
    const A shift = top == kHidden<A> ? A(0) : top;
    A sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A e = exponential(values[p][i] - shift);
        sum += e;
        values[p][i] = is_log ? values[p][i] - shift : e;
      }
    }
    sum = Group::sum(sum);
    const A scale = is_log ? A(1) : (sum == A(0) ? A(0) : A(1) / sum), shift_by = is_log ? logarithm(sum) : A(0);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[p][i] = values[p][i] * scale - shift_by;
    }
    Group::store(y + row * packs * N, row_packs, values);
  }
}

template <class T, class Group>
__global__ void __launch_bounds__(cuda::kBlock)
    softmax_backward_kernel(const T* y, const T* dy, int64_t rows, int packs, T* dx, bool is_log) {
  using A = cuda::Accumulator<T>;
  constexpr int N = Group::N, P = Group::P;
  for (int64_t first = Group::first_row(); first < rows; first += Group::row_step()) {
    const int64_t row = first + Group::row_in_warp(), offset = row * packs * N;
    const int row_packs = row < rows ? packs : 0;
    A out[P][N], g[P][N];
    Group::load(y + offset, row_packs, A(0), out);
    Group::load(dy + offset, row_packs, A(0), g);
    A sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum += backward_term(out[p][i], g[p][i], is_log);
    }
    sum = Group::sum(sum);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) g[p][i] = backward_value(out[p][i], g[p][i], sum, is_log);
    }
    Group::store(dx + offset, row_packs, g);
  }
}

/// A block a row of any length, read twice.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    softmax_forward_long_kernel(const T* x, int64_t rows, int64_t stride, int64_t n, T* y, bool is_log) {
  using A = cuda::Accumulator<T>;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * stride;
    auto total = MaxSum<A>::none();
    for (int64_t i = threadIdx.x; i < n; i += cuda::kBlock) total.add(convert<A>(in[i]));
    total = total.over_block();
    const A shift = total.shift(), normalizer = total.normalizer(is_log);
    for (int64_t i = threadIdx.x; i < n; i += cuda::kBlock) {
      y[row * n + i] = convert<T>(forward_value(convert<A>(in[i]), shift, normalizer, is_log));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    softmax_backward_long_kernel(const T* y, const T* dy, int64_t rows, int64_t n, T* dx, bool is_log) {
  using A = cuda::Accumulator<T>;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *out = y + row * n, *g = dy + row * n;
    A sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += cuda::kBlock) {
      sum += backward_term(convert<A>(out[i]), convert<A>(g[i]), is_log);
    }
    sum = cuda::block_sum(sum);
    for (int64_t i = threadIdx.x; i < n; i += cuda::kBlock) {
      dx[row * n + i] = convert<T>(backward_value(convert<A>(out[i]), convert<A>(g[i]), sum, is_log));
    }
  }
}

/// Rows side by side: a thread each, neighbours on neighbouring inner elements.   x [outer, n, inner]
template <class T>
struct ForwardColumn {
  using A = cuda::Accumulator<T>;
  const T* x;
  int64_t outer_stride, stride, n, inner;
  T* y;
  bool is_log;

  __device__ void operator()(int64_t index) const {
    const int64_t outer = index / inner, at = index % inner;
    const T* in = x + outer * outer_stride + at;
    T* out = y + outer * n * inner + at;
    auto total = MaxSum<A>::none();
    for (int64_t i = 0; i < n; ++i) total.add(convert<A>(in[i * stride]));
    const A shift = total.shift(), normalizer = total.normalizer(is_log);
    for (int64_t i = 0; i < n; ++i) {
      out[i * inner] = convert<T>(forward_value(convert<A>(in[i * stride]), shift, normalizer, is_log));
    }
  }
};

template <class T>
struct BackwardColumn {
  using A = cuda::Accumulator<T>;
  const T *y, *dy;
  int64_t n, inner;
  T* dx;
  bool is_log;

  __device__ void operator()(int64_t index) const {
    const int64_t offset = index / inner * n * inner + index % inner;
    A sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = offset + i * inner;
      sum += backward_term(convert<A>(y[at]), convert<A>(dy[at]), is_log);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = offset + i * inner;
      dx[at] = convert<T>(backward_value(convert<A>(y[at]), convert<A>(dy[at]), sum, is_log));
    }
  }
};

/// With the widest packs, or one element; double always takes the long kernels.
template <class T, class Fn>
bool dispatch_rows(const cuda::PackLimits& limits, int64_t n, Fn&& fn) {
  constexpr int kWide = cuda::kPackSize<T>;
  if constexpr (std::is_same_v<T, double>) return false;
  else if (limits.allow(kWide, 16)) return dispatch_row_group<T, kWide, kLimit>(n / kWide, fn);
  else return dispatch_row_group<T, 1, kLimit>(n, fn);
}

unsigned row_blocks(int64_t rows, Device device) {
  return static_cast<unsigned>(std::min<int64_t>(rows, int64_t{cuda::device_info(device).multiprocessors} * 32));
}

template <class T>
void forward(const Slabs& x, const Tensor& y, bool is_log) {
  const Device device = y.device();
  const T* in = x.x.data<T>();
  T* out = y.data<T>();
  const int64_t n = x.extent;
  if (x.inner > 1) {
    return cuda::for_each(device, x.outer * x.inner, "softmax_forward",
                          ForwardColumn<T>{in, x.outer_stride, x.stride, n, x.inner, out, is_log});
  }
  cudaStream_t stream = cuda::use(device);
  const bool done = dispatch_rows<T>({{in, out}, {n, x.outer_stride}}, n, [&]<class Group>() {
    softmax_forward_kernel<T, Group><<<Group::blocks(x.outer, device), cuda::kBlock, 0, stream>>>(
        in, x.outer, x.outer_stride, static_cast<int>(n / Group::N), out, is_log);
  });
  if (!done) {
    softmax_forward_long_kernel<T>
        <<<row_blocks(x.outer, device), cuda::kBlock, 0, stream>>>(in, x.outer, x.outer_stride, n, out, is_log);
  }
  CAMO_LAUNCHED("softmax_forward");
}

template <class T>
void backward(const Slabs& y, const Tensor& dy, const Tensor& dx, bool is_log) {
  const Device device = dx.device();
  const T *out = y.x.data<T>(), *g = dy.data<T>();
  T* grad = dx.data<T>();
  const int64_t n = y.extent;
  if (y.inner > 1) {
    return cuda::for_each(device, y.outer * y.inner, "softmax_backward",
                          BackwardColumn<T>{out, g, n, y.inner, grad, is_log});
  }
  cudaStream_t stream = cuda::use(device);
  const bool done = dispatch_rows<T>({{out, g, grad}, {n}}, n, [&]<class Group>() {
    softmax_backward_kernel<T, Group><<<Group::blocks(y.outer, device), cuda::kBlock, 0, stream>>>(
        out, g, y.outer, static_cast<int>(n / Group::N), grad, is_log);
  });
  if (!done) {
    softmax_backward_long_kernel<T>
        <<<row_blocks(y.outer, device), cuda::kBlock, 0, stream>>>(out, g, y.outer, n, grad, is_log);
  }
  CAMO_LAUNCHED("softmax_backward");
}

}  // namespace
#endif

void softmax_forward_cuda([[maybe_unused]] const Slabs& x, [[maybe_unused]] const Tensor& y,
                          [[maybe_unused]] bool is_log) {
#ifdef __CUDACC__
  cuda::dispatch_floating(y.dtype(), is_log ? "log_softmax" : "softmax", [&]<class T>() {
    if (y.numel() > 0) forward<T>(x, y, is_log);
  });
#endif
}

void softmax_backward_cuda([[maybe_unused]] const Slabs& y, [[maybe_unused]] const Tensor& dy,
                           [[maybe_unused]] const Tensor& dx, [[maybe_unused]] bool is_log) {
#ifdef __CUDACC__
  cuda::dispatch_floating(dx.dtype(), "softmax", [&]<class T>() { backward<T>(y, dy, dx, is_log); });
#endif
}

}  // namespace camo::detail
