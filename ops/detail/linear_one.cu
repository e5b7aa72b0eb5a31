// y[m] = sum over i of x[m, i] w[i] + b;  dx[m, i] = dy[m] w[i],  dw[i] = sum over m of dy[m] x[m, i],  db = sum of dy.
//
// Decomposition. Forward: as many lanes as a row has pieces of 16 bytes, up to 32, multiply their pieces by weights in
// registers and add up by shuffles. Backward: dx and the sums in one pass over x, the same lanes with sums in
// registers, in f32 over a thread's rows and a block, in double over blocks by a second kernel. A thread has four rows
// in flight. Bound by: memory.
#include "ops/detail/linear_one.h"

#ifdef __CUDACC__
#include "ops/detail/column_reduce.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

constexpr int kRowsInFlight = 4;

/// x [rows, stride]; `lanes` (a power of two, at least `pieces`) threads a row, a piece of the row each.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    linear_one_kernel(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                      T* __restrict__ y, int64_t rows, int64_t stride, int pieces, int lanes) {
  constexpr int N = cuda::kPackSize<T>;
  const int lane = static_cast<int>(threadIdx.x) % lanes, height = cuda::kBlock / lanes;
  float w[N];
#pragma unroll
  for (int n = 0; n < N; ++n) w[n] = 0;
  if (lane < pieces) cuda::load_constants<N>(weight + lane * N, w);
  const float start = bias != nullptr ? convert<float>(bias[0]) : 0;
  const int64_t step = int64_t{gridDim.x} * height;
  // All lanes of a warp go through the same steps: the shuffles need them.
  for (int64_t first = int64_t{blockIdx.x} * height; first < rows; first += kRowsInFlight * step) {
    const int64_t row = first + static_cast<int>(threadIdx.x) / lanes;
    float values[kRowsInFlight][N];
#pragma unroll
    for (int k = 0; k < kRowsInFlight; ++k) {
#pragma unroll
      for (int n = 0; n < N; ++n) values[k][n] = 0;
      if (row + k * step < rows && lane < pieces)
        cuda::load_constants<N>(x + (row + k * step) * stride + lane * N, values[k]);
    }
#pragma unroll
    for (int k = 0; k < kRowsInFlight; ++k) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < N; ++n) sum += values[k][n] * w[n];
      for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
      if (lane == 0 && row + k * step < rows) y[row + k * step] = convert<T>(sum + start);
    }
  }
}

/// Threads as in the forward pass, one piece a lane; grid: (rows, tiles of `lanes` pieces).
/// partials [gridDim.x][width + 1], the last for the bias; dx may be null.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    linear_one_backward_kernel(const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ weight,
                               T* __restrict__ dx, float* __restrict__ partials, int64_t rows, int64_t stride,
                               int64_t dy_stride, int pieces, int lanes) {
  constexpr int N = cuda::kPackSize<T>;
  __shared__ float s_sums[N + 1][cuda::kBlock];
  const int lane = static_cast<int>(threadIdx.x) % lanes, height = cuda::kBlock / lanes;
  const int own = static_cast<int>(threadIdx.x) / lanes, piece = static_cast<int>(blockIdx.y) * lanes + lane;
  const int64_t width = int64_t{pieces} * N, step = int64_t{gridDim.x} * height;
  float w[N], sums[N], bias = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) w[n] = sums[n] = 0;
  if (piece < pieces) {
    cuda::load_constants<N>(weight + piece * N, w);
    for (int64_t first = int64_t{blockIdx.x} * height + own; first < rows; first += kRowsInFlight * step) {
      float values[kRowsInFlight][N], g[kRowsInFlight][1];
#pragma unroll
      for (int k = 0; k < kRowsInFlight; ++k) {
        const int64_t row = first + k * step;
        g[k][0] = 0;
#pragma unroll
        for (int n = 0; n < N; ++n) values[k][n] = 0;
        if (row >= rows) continue;
        cuda::load_constants<1>(dy + row * dy_stride, g[k]);
        cuda::load_constants<N>(x + row * stride + piece * N, values[k]);
      }
#pragma unroll
      for (int k = 0; k < kRowsInFlight; ++k) {
        bias += g[k][0];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          sums[n] += g[k][0] * values[k][n];
          values[k][n] = g[k][0] * w[n];
        }
        const int64_t row = first + k * step;
        if (dx != nullptr && row < rows) cuda::store_values<N>(dx + row * width + piece * N, values[k]);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) s_sums[n][threadIdx.x] = sums[n];
  s_sums[N][threadIdx.x] = bias;
  for (int half = height / 2; half > 0; half /= 2) {
    __syncthreads();
    if (own >= half) continue;
#pragma unroll
    for (int n = 0; n <= N; ++n) s_sums[n][threadIdx.x] += s_sums[n][threadIdx.x + half * lanes];
  }
  if (own != 0 || piece >= pieces) return;
  float* to = partials + blockIdx.x * (width + 1);
#pragma unroll
  for (int n = 0; n < N; ++n) to[piece * N + n] = s_sums[n][threadIdx.x];
  if (piece == 0) to[width] = s_sums[N][threadIdx.x];
}

/// For column_finish(). R: of the gradients of the parameters.
template <class R>
struct StoreLinearOne {
  using Partial = ColumnSum<float>;
  using Total = ColumnSum<double>;
  R *dweight, *dbias;
  int64_t width;

  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    if (column < width) dweight[column] = convert<R>(total.sum);
    else if (dbias != nullptr) dbias[0] = convert<R>(total.sum);
  }
};

/// A power of two, up to a warp.
int lanes_for(int pieces) {
  int lanes = 1;
  while (lanes < cuda::kWarp && lanes < pieces) lanes *= 2;
  return lanes;
}

/// Blocks for rows of `lanes` threads: each thread has several rows in flight, and a few times what fills the device.
unsigned row_blocks(Device device, int64_t rows, int lanes) {
  const int64_t height = int64_t{kRowsInFlight} * (cuda::kBlock / lanes);
  return static_cast<unsigned>(
      std::min((rows + height - 1) / height, int64_t{cuda::device_info(device).multiprocessors} * 8));
}

template <class Fn>
void dispatch_up_to_f32(DType dtype, Fn&& fn) {
  if (dtype == f16) fn.template operator()<Half>();
  else if (dtype == bf16) fn.template operator()<BFloat16>();
  else fn.template operator()<float>();
}

}  // namespace
#endif

bool has_linear_one([[maybe_unused]] const Rows& x, [[maybe_unused]] const Tensor& weight,
                    [[maybe_unused]] int64_t most_pieces) {
#ifdef __CUDACC__
  const DType dtype = x.x.dtype();
  if (dtype != f32 && dtype != f16 && dtype != bf16) return false;
  const int64_t pack = 16 / size_in_bytes(dtype);
  return x.count > 0 && x.width > 0 && x.width <= most_pieces * pack && x.width % pack == 0 && x.stride % pack == 0 &&
         weight.is_contiguous() && cuda::is_aligned(x.x.raw_data(), 16) && cuda::is_aligned(weight.raw_data(), 16);
#else
  return false;
#endif
}

void linear_one_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Tensor& weight,
                     [[maybe_unused]] const Tensor& bias, [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  dispatch_up_to_f32(y.dtype(), [&]<class T>() {
    const int pieces = static_cast<int>(x.width) / cuda::kPackSize<T>, lanes = lanes_for(pieces);
    cudaStream_t stream = cuda::use(y.device());
    linear_one_kernel<T><<<row_blocks(y.device(), x.count, lanes), cuda::kBlock, 0, stream>>>(
        x.row<T>(0), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, y.data<T>(), x.count, x.stride,
        pieces, lanes);
    CAMO_LAUNCHED("linear_one");
  });
#endif
}

void linear_one_backward_cuda([[maybe_unused]] const Rows& dy, [[maybe_unused]] const Rows& x,
                              [[maybe_unused]] const Tensor& weight, [[maybe_unused]] const Tensor& dx,
                              [[maybe_unused]] const Tensor& dweight, [[maybe_unused]] const Tensor& dbias) {
#ifdef __CUDACC__
  const Device device = x.x.device();
  dispatch_up_to_f32(x.x.dtype(), [&]<class T>() {
    const int pieces = static_cast<int>(x.width) / cuda::kPackSize<T>, lanes = lanes_for(pieces);
    const dim3 grid(row_blocks(device, x.count, lanes), static_cast<unsigned>((pieces + lanes - 1) / lanes));
    const Tensor partials = empty({grid.x, x.width + 1}, f32, device);
    cudaStream_t stream = cuda::use(device);
    linear_one_backward_kernel<T><<<grid, cuda::kBlock, 0, stream>>>(
        x.row<T>(0), dy.row<T>(0), weight.data<T>(), dx.defined() ? dx.data<T>() : nullptr, partials.data<float>(),
        x.count, x.stride, dy.stride, pieces, lanes);
    CAMO_LAUNCHED("linear_one_backward");
    const auto finish = [&]<class R>() {
      using Store = StoreLinearOne<R>;
      column_finish(device, 1, grid.x, x.width + 1, "linear_one_backward",
                    Store{dweight.data<R>(), dbias.defined() ? dbias.data<R>() : nullptr, x.width},
                    static_cast<const typename Store::Partial*>(partials.raw_data()));
    };
    if (dweight.dtype() == f32) finish.template operator()<float>();
    else finish.template operator()<T>();
  });
#endif
}

}  // namespace camo::detail
