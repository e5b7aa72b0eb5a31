#include "ops/detail/layer_norm_cuda.h"

#ifdef __CUDACC__
#include "ops/detail/column_reduce.cuh"
#include "ops/detail/parameters.cuh"
#include "ops/detail/row_groups.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

constexpr int kForwardLimit = 32;   // elements of a row in a lane's registers
constexpr int kBackwardLimit = 32;  // of x and dy, beside as many sums for dweight and dbias

// --- rows in registers ---

// T is the dtype of x and dx, R of y and dy: the same, or 16-bit beside f32 (under autocast).

/// A group of lanes a row (RowGroup), which stays in registers: x is read once.   x [rows, stride], y [rows, width]
template <class T, class R, class Group>
__global__ void __launch_bounds__(cuda::kBlock)
    layer_norm_forward_kernel(const T* x, int64_t rows, int64_t stride, int packs, const cuda::Accumulator<T>* weight,
                              const cuda::Accumulator<T>* bias, cuda::Accumulator<T> eps, R* y,
                              cuda::Accumulator<T>* means, cuda::Accumulator<T>* rstds) {
  cuda::wait_for_previous_kernel();
  using A = cuda::Accumulator<T>;
  constexpr int N = Group::N, P = Group::P, G = Group::G;
  const int width = packs * N, lane = Group::lane();
  for (int64_t first = Group::first_row(); first < rows; first += Group::row_step()) {
    const int64_t row = first + Group::row_in_warp();
    const int row_packs = row < rows ? packs : 0;
    A values[P][N];
    Group::load(x + row * stride, row_packs, A(0), values);
    A sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum += values[p][i];
    }
    const A mean = Group::sum(sum) / A(width);
    A squares = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (p * G + lane >= row_packs) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        values[p][i] -= mean;
        squares += values[p][i] * values[p][i];
      }
    }
    const A rstd = A(1) / sqrt(Group::sum(squares) / A(width) + eps);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int pack = p * G + lane;
      if (pack >= row_packs) continue;
      A scale[N], shift[N];
      cuda::load_constants<N>(weight + pack * N, scale);
      cuda::load_constants<N>(bias + pack * N, shift);
#pragma unroll
      for (int i = 0; i < N; ++i) values[p][i] = values[p][i] * rstd * scale[i] + shift[i];
    }
    Group::store(y + row * width, row_packs, values);
    if (lane == 0 && row < rows) {
      means[row] = mean;
      rstds[row] = rstd;
    }
  }
}

/// A group of lanes a row: x and dy are read once for all three gradients. Each lane sums dweight and dbias of its
/// columns over its rows; warps by shuffles and the block in the order of its warps write partial [blocks, 2, width].
/// dx may be null, or added to. Dynamic shared memory: [warps][width] sums, neighbours in a row from neighbouring
/// lanes, not from one.
template <class T, class R, class Group>
__global__ void __launch_bounds__(cuda::kBlock)
    layer_norm_backward_kernel(const T* x, int64_t x_stride, const R* dy, int64_t dy_stride, int64_t rows, int packs,
                               const cuda::Accumulator<T>* weight, const cuda::Accumulator<T>* means,
                               const cuda::Accumulator<T>* rstds, T* dx, bool adds_dx, cuda::Accumulator<T>* partial) {
  cuda::wait_for_previous_kernel();
  using A = cuda::Accumulator<T>;
  constexpr int N = Group::N, P = Group::P, G = Group::G;
  extern __shared__ __align__(16) unsigned char s_memory[];
  A* s_sums = reinterpret_cast<A*>(s_memory);  // [warps, N, packs]
  const int width = packs * N, lane = Group::lane();
  A dweight[P][N] = {}, dbias[P][N] = {};
  for (int64_t first = Group::first_row(); first < rows; first += Group::row_step()) {
    const int64_t row = first + Group::row_in_warp();
    const int row_packs = row < rows ? packs : 0;
    A n[P][N], g[P][N];
    Group::load(x + row * x_stride, row_packs, A(0), n);
    Group::load(dy + row * dy_stride, row_packs, A(0), g);
    const A mean = row < rows ? means[row] : A(0), rstd = row < rows ? rstds[row] : A(0);
    A sum_g = 0, sum_gn = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int pack = p * G + lane;
      if (pack >= row_packs) continue;
      A scale[N];
      cuda::load_constants<N>(weight + pack * N, scale);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        n[p][i] = (n[p][i] - mean) * rstd;
        dweight[p][i] += g[p][i] * n[p][i];
        dbias[p][i] += g[p][i];
        g[p][i] *= scale[i];
        sum_g += g[p][i];
        sum_gn += g[p][i] * n[p][i];
      }
    }
    if (dx == nullptr) continue;
    const A mean_g = Group::sum(sum_g) / A(width), mean_gn = Group::sum(sum_gn) / A(width);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) g[p][i] = rstd * (g[p][i] - mean_g - n[p][i] * mean_gn);
      const int pack = p * G + lane;
      if (!adds_dx || pack >= row_packs) continue;
      A before[N];
      cuda::load_values<N>(dx + row * width + pack * N, before);
#pragma unroll
      for (int i = 0; i < N; ++i) g[p][i] += before[i];
    }
    Group::store(dx + row * width, row_packs, g);
  }
  // Groups of a warp, then warps.
#pragma unroll
  for (int p = 0; p < P; ++p) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int offset = G; offset < cuda::kWarp; offset *= 2) {
        dweight[p][i] += __shfl_xor_sync(~0u, dweight[p][i], offset);
        dbias[p][i] += __shfl_xor_sync(~0u, dbias[p][i], offset);
      }
    }
  }
  constexpr int kWarps = cuda::kBlock / cuda::kWarp;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    __syncthreads();
    if (Group::row_in_warp() == 0) {
      A* own = s_sums + static_cast<int>(threadIdx.x) / cuda::kWarp * width;
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const int pack = p * G + lane;
        if (pack >= packs) continue;
#pragma unroll
        for (int i = 0; i < N; ++i) own[i * packs + pack] = which == 0 ? dweight[p][i] : dbias[p][i];
      }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < width; c += cuda::kBlock) {
      const A* from = s_sums + c % N * packs + c / N;
      A sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += from[warp * width];
      partial[(int64_t{blockIdx.x} * 2 + which) * width + c] = sum;
    }
  }
}

// --- rows of any length ---

/// A block a row, read three times (from the caches after the first).
template <class T, class R>
__global__ void __launch_bounds__(cuda::kBlock)
    layer_norm_forward_long_kernel(const T* x, int64_t rows, int64_t stride, int64_t width,
                                   const cuda::Accumulator<T>* weight, const cuda::Accumulator<T>* bias,
                                   cuda::Accumulator<T> eps, R* y, cuda::Accumulator<T>* means,
                                   cuda::Accumulator<T>* rstds) {
  cuda::wait_for_previous_kernel();
  using A = cuda::Accumulator<T>;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * stride;
    A sum = 0, squares = 0;
    for (int64_t c = threadIdx.x; c < width; c += cuda::kBlock) sum += convert<A>(in[c]);
    const A mean = cuda::block_sum(sum) / static_cast<A>(width);
    for (int64_t c = threadIdx.x; c < width; c += cuda::kBlock) {
      const A centred = convert<A>(in[c]) - mean;
      squares += centred * centred;
    }
    const A rstd = A(1) / sqrt(cuda::block_sum(squares) / static_cast<A>(width) + eps);
    for (int64_t c = threadIdx.x; c < width; c += cuda::kBlock) {
      y[row * width + c] = convert<R>((convert<A>(in[c]) - mean) * rstd * weight[c] + bias[c]);
    }
    if (threadIdx.x == 0) {
      means[row] = mean;
      rstds[row] = rstd;
    }
  }
}

/// A block a row: dx only.
template <class T, class R>
__global__ void __launch_bounds__(cuda::kBlock)
    layer_norm_backward_long_kernel(const T* x, int64_t x_stride, const R* dy, int64_t dy_stride, int64_t rows,
                                    int64_t width, const cuda::Accumulator<T>* weight,
                                    const cuda::Accumulator<T>* means, const cuda::Accumulator<T>* rstds, T* dx,
                                    bool adds_dx) {
  cuda::wait_for_previous_kernel();
  using A = cuda::Accumulator<T>;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * x_stride;
    const R* g = dy + row * dy_stride;
    const A mean = means[row], rstd = rstds[row];
    A sum_g = 0, sum_gn = 0;
    for (int64_t c = threadIdx.x; c < width; c += cuda::kBlock) {
      const A scaled = convert<A>(g[c]) * weight[c];
      sum_g += scaled;
      sum_gn += scaled * ((convert<A>(in[c]) - mean) * rstd);
    }
    const A mean_g = cuda::block_sum(sum_g) / static_cast<A>(width);
    const A mean_gn = cuda::block_sum(sum_gn) / static_cast<A>(width);
    for (int64_t c = threadIdx.x; c < width; c += cuda::kBlock) {
      const A n = (convert<A>(in[c]) - mean) * rstd;
      const A before = adds_dx ? convert<A>(dx[row * width + c]) : A(0);
      dx[row * width + c] = convert<T>(before + rstd * (convert<A>(g[c]) * weight[c] - mean_g - n * mean_gn));
    }
  }
}

/// dweight and dbias by columns.
template <class T, class R, int N>
struct ParameterSums {
  using A = cuda::Accumulator<T>;
  using Partial = ColumnPair<A>;
  using Total = ColumnPair<double>;
  static constexpr int kWidth = N;
  const T* x;
  const R* dy;
  int64_t x_stride, dy_stride, width;
  const A *means, *rstds;
  A *dweight, *dbias;

  __device__ void add(int64_t, int64_t row, int64_t column, Partial (&partial)[N]) const {
    A in[N], g[N];
    cuda::load_constants<N>(x + row * x_stride + column, in);
    cuda::load_constants<N>(dy + row * dy_stride + column, g);
    const A mean = means[row], rstd = rstds[row];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      partial[i].first += g[i] * ((in[i] - mean) * rstd);
      partial[i].second += g[i];
    }
  }
  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    dweight[column] = static_cast<A>(total.first);
    dbias[column] = static_cast<A>(total.second);
  }
};

/// The sums that blocks of layer_norm_backward_kernel left.
template <class A>
struct BlockSums {
  using Partial = ColumnSum<A>;
  using Total = ColumnSum<double>;
  int64_t width;
  A *dweight, *dbias;

  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    (column < width ? dweight[column] : dbias[column - width]) = static_cast<A>(total.sum);
  }
};

// --- host ---

unsigned row_blocks(int64_t rows, Device device) {
  return static_cast<unsigned>(std::min<int64_t>(rows, int64_t{cuda::device_info(device).multiprocessors} * 32));
}

template <class T, class R>
void forward(const Rows& x, const Tensor& weight, const Tensor& bias, double eps, const Tensor& y, const Tensor& mean,
             const Tensor& rstd) {
  using A = cuda::Accumulator<T>;
  const Device device = y.device();
  const Tensor scale = parameter<A>(weight), shift = parameter<A>(bias);
  const T* in = x.row<T>(0);
  const A *w = scale.data<A>(), *b = shift.data<A>();
  cudaStream_t stream = cuda::use(device);
  bool done = false;
  if constexpr (!std::is_same_v<T, double>) {
    cuda::dispatch_pack<T>({{in, y.raw_data()}, {x.width, x.stride}}, [&]<int N>() {
      done = dispatch_row_group<T, N, kForwardLimit>(x.width / N, [&]<class Group>() {
        cuda::launch(layer_norm_forward_kernel<T, R, Group>, Group::blocks(x.count, device), cuda::kBlock, 0, stream,
                     in, x.count, x.stride, static_cast<int>(x.width / N), w, b, static_cast<A>(eps), y.data<R>(),
                     mean.data<A>(), rstd.data<A>());
      });
    });
  }
  if (!done) {
    cuda::launch(layer_norm_forward_long_kernel<T, R>, row_blocks(x.count, device), cuda::kBlock, 0, stream, in,
                 x.count, x.stride, x.width, w, b, static_cast<A>(eps), y.data<R>(), mean.data<A>(), rstd.data<A>());
  }
  CAMO_LAUNCHED("layer_norm_forward");
}

template <class T, class R>
void backward(const Rows& x, const Rows& dy, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
              const LayerNormGradients& grads) {
  using A = cuda::Accumulator<T>;
  const Device device = weight.device();
  const int64_t width = x.width;
  const Tensor scale = parameter<A>(weight);
  const ParameterTarget<A> dweight(grads.dweight, width, device), dbias(grads.dbias, width, device);
  const T* in = x.row<T>(0);
  const R* g = dy.row<R>(0);
  T* dx = grads.dx.defined() ? grads.dx.data<T>() : nullptr;
  const A *w = scale.data<A>(), *means = mean.data<A>(), *rstds = rstd.data<A>();
  cudaStream_t stream = cuda::use(device);
  bool done = false;
  if constexpr (!std::is_same_v<T, double>) {
    cuda::dispatch_pack<T>({{in, g, dx}, {width, x.stride, dy.stride}}, [&]<int N>() {
      done = dispatch_row_group<T, N, kBackwardLimit>(width / N, [&]<class Group>() {
        // As many blocks as stay on the device: each leaves a row of sums.
        const auto shared = static_cast<size_t>(cuda::kBlock / cuda::kWarp * width) * sizeof(A);
        int resident = 0;
        CAMO_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, layer_norm_backward_kernel<T, R, Group>,
                                                                cuda::kBlock, shared));
        const int64_t most = int64_t{cuda::device_info(device).multiprocessors} * std::max(1, resident);
        const int64_t blocks = std::min(most, (x.count + Group::kRowsPerBlock - 1) / Group::kRowsPerBlock);
        const Tensor partial = empty({blocks, 2 * width}, dtype_of<A>, device);
        cuda::launch(layer_norm_backward_kernel<T, R, Group>, static_cast<unsigned>(blocks), cuda::kBlock, shared,
                     stream, in, x.stride, g, dy.stride, x.count, static_cast<int>(width / N), w, means, rstds, dx,
                     grads.adds_dx, partial.data<A>());
        CAMO_LAUNCHED("layer_norm_backward");
        column_finish(device, 1, blocks, 2 * width, "layer_norm_backward",
                      BlockSums<A>{width, dweight.data(), dbias.data()},
                      reinterpret_cast<const ColumnSum<A>*>(partial.data<A>()));
      });
    });
  }
  if (!done) {
    if (dx != nullptr) {
      cuda::launch(layer_norm_backward_long_kernel<T, R>, row_blocks(x.count, device), cuda::kBlock, 0, stream, in,
                   x.stride, g, dy.stride, x.count, width, w, means, rstds, dx, grads.adds_dx);
      CAMO_LAUNCHED("layer_norm_backward");
    }
    cuda::dispatch_pack<T>({{in, g}, {width, x.stride, dy.stride}}, [&]<int N>() {
      column_reduce(
          device, 1, x.count, width, "layer_norm_backward",
          ParameterSums<T, R, N>{in, g, x.stride, dy.stride, width, means, rstds, dweight.data(), dbias.data()});
    });
  }
  dweight.store();
  dbias.store();
}

/// Calls fn.template operator()<T, R>() for the dtypes of x and of y.
template <class Fn>
void dispatch_dtypes(DType x, DType y, Fn&& fn) {
  if (x == f32 && y == f16) return fn.template operator()<float, Half>();
  if (x == f32 && y == bf16) return fn.template operator()<float, BFloat16>();
  cuda::dispatch_floating(x, "layer_norm", [&]<class T>() { fn.template operator()<T, T>(); });
}

}  // namespace
#endif

void layer_norm_forward_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Tensor& weight,
                             [[maybe_unused]] const Tensor& bias, [[maybe_unused]] double eps,
                             [[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& mean,
                             [[maybe_unused]] const Tensor& rstd) {
#ifdef __CUDACC__
  if (x.count == 0 || x.width == 0) return;
  dispatch_dtypes(x.x.dtype(), y.dtype(),
                  [&]<class T, class R>() { forward<T, R>(x, weight, bias, eps, y, mean, rstd); });
#endif
}

void layer_norm_backward_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Rows& dy,
                              [[maybe_unused]] const Tensor& weight, [[maybe_unused]] const Tensor& mean,
                              [[maybe_unused]] const Tensor& rstd, [[maybe_unused]] const LayerNormGradients& grads) {
#ifdef __CUDACC__
  if (x.count == 0 || x.width == 0) {
    for (const Tensor& gradient : {grads.adds_dx ? Tensor() : grads.dx, grads.dweight, grads.dbias}) {
      if (gradient.defined()) fill(gradient, 0);
    }
    return;
  }
  dispatch_dtypes(x.x.dtype(), dy.x.dtype(),
                  [&]<class T, class R>() { backward<T, R>(x, dy, weight, mean, rstd, grads); });
#endif
}

}  // namespace camo::detail
