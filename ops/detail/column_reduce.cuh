// Deterministic sums over the rows of [batches, rows, width] for each column, in two kernels: parts of the rows, then
// the parts. How the work is cut depends on the shape and the device only.
//
// An operation has: Partial, what a thread keeps per column (all zero bits: nothing yet); Total, the same in double,
// made from a Partial; merge(other) in both; kWidth, the columns a thread handles at once, which divide the width; and
//   __device__ void add(int64_t batch, int64_t row, int64_t column, Partial (&partial)[kWidth]) const
//   __device__ void finish(int64_t batch, int64_t column, const Total& total) const
#pragma once

#include "core/cuda/kernels.cuh"
#include "core/cuda/packs.cuh"
#include "core/tensor.h"

namespace camo::detail {

template <class A>
struct ColumnSum {
  A sum;
  ColumnSum() = default;
  template <class B>
  __device__ explicit ColumnSum(const ColumnSum<B>& other) : sum(other.sum) {}
  __device__ void merge(const ColumnSum& other) { sum += other.sum; }
};

template <class A>
struct ColumnPair {
  A first, second;
  ColumnPair() = default;
  template <class B>
  __device__ explicit ColumnPair(const ColumnPair<B>& other) : first(other.first), second(other.second) {}
  __device__ void merge(const ColumnPair& other) {
    first += other.first;
    second += other.second;
  }
};

/// Mean and sum of squared deviations, by Welford's update and Chan's merge: as accurate as two passes.
template <class A>
struct ColumnMoments {
  A count, mean, squares;
  ColumnMoments() = default;
  template <class B>
  __device__ explicit ColumnMoments(const ColumnMoments<B>& other)
      : count(other.count), mean(other.mean), squares(other.squares) {}
  __device__ void merge(const ColumnMoments& other) {
    if (other.count == A(0)) return;
    const A total = count + other.count, delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    squares += other.squares + delta * delta * count * share;
    count = total;
  }
};

constexpr int kColumnThreads = 256;

/// Block (tile of columns, part of the rows, batch): `tile` threads side by side take kWidth columns each, 256 / tile
/// threads below each other take every (256 / tile)-th row of the part; their partials meet in shared memory.
/// partials [batches, parts, width].
template <class Op>
__global__ void __launch_bounds__(kColumnThreads)
    column_partials_kernel(Op op, int64_t rows, int64_t rows_per_part, int packs, int tile, int64_t width,
                           typename Op::Partial* partials) {
  cuda::wait_for_previous_kernel();
  using Partial = typename Op::Partial;
  constexpr int N = Op::kWidth;
  __shared__ alignas(16) unsigned char s_memory[sizeof(Partial) * N * kColumnThreads];
  auto* s_partials = reinterpret_cast<Partial*>(s_memory);  // [N][256]
  const int x = threadIdx.x % tile, y = threadIdx.x / tile, height = kColumnThreads / tile;
  const int64_t pack = int64_t{blockIdx.x} * tile + x, batch = blockIdx.z;
  const int64_t begin = blockIdx.y * rows_per_part, end = min(rows, begin + rows_per_part);
  Partial r_partial[N] = {};
  if (pack < packs) {
#pragma unroll 4
    for (int64_t row = begin + y; row < end; row += height) op.add(batch, row, pack * N, r_partial);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) s_partials[i * kColumnThreads + threadIdx.x] = r_partial[i];
  for (int half = height / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y >= half) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      s_partials[i * kColumnThreads + threadIdx.x].merge(s_partials[i * kColumnThreads + threadIdx.x + half * tile]);
    }
  }
  if (y != 0 || pack >= packs) return;
  Partial* to = partials + (batch * gridDim.y + blockIdx.y) * width + pack * N;
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = s_partials[i * kColumnThreads + threadIdx.x];
}

constexpr int kFinishColumns = 8, kFinishRows = 64;  // hundreds of parts: what a thread adds up it waits for

/// Block (8 columns, batch): 64 threads below each other take every 64th part.   partials [batches, parts, width]
template <class Op>
__global__ void __launch_bounds__(kFinishColumns* kFinishRows)
    column_finish_kernel(Op op, int parts, int64_t width, const typename Op::Partial* partials) {
  cuda::wait_for_previous_kernel();
  using Total = typename Op::Total;
  __shared__ alignas(16) unsigned char s_memory[sizeof(Total) * kFinishColumns * kFinishRows];
  auto* s_totals = reinterpret_cast<Total*>(s_memory);  // [64][8]
  const int x = threadIdx.x % kFinishColumns, y = threadIdx.x / kFinishColumns;
  const int64_t column = int64_t{blockIdx.x} * kFinishColumns + x, batch = blockIdx.y;
  Total total = {};
  if (column < width) {
    const typename Op::Partial* from = partials + batch * parts * width + column;
#pragma unroll 4
    for (int part = y; part < parts; part += kFinishRows) total.merge(Total(from[part * width]));
  }
  s_totals[threadIdx.x] = total;
  for (int half = kFinishRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y < half) s_totals[threadIdx.x].merge(s_totals[threadIdx.x + half * kFinishColumns]);
  }
  if (y == 0 && column < width) op.finish(batch, column, s_totals[x]);
}

/// The second kernel alone.
template <class Op>
void column_finish(Device device, int64_t batches, int64_t parts, int64_t width, const char* name, const Op& op,
                   const typename Op::Partial* partials) {
  cudaStream_t stream = cuda::use(device);
  const dim3 grid(static_cast<unsigned>((width + kFinishColumns - 1) / kFinishColumns), static_cast<unsigned>(batches));
  cuda::launch(column_finish_kernel<Op>, grid, kFinishColumns * kFinishRows, 0, stream, op, static_cast<int>(parts),
               width, partials);
  CAMO_LAUNCHED(name);
}

/// How columns are cut for blocks of kColumnThreads: `tile` packs side by side, the other threads below each other.
struct ColumnTiles {
  int64_t tile = 1, tiles, height;

  explicit ColumnTiles(int64_t packs) {
    while (tile < packs && tile < cuda::kWarp) tile *= 2;
    tiles = (packs + tile - 1) / tile;
    height = kColumnThreads / tile;
  }
};

/// Runs both kernels. At most 65535 batches.
template <class Op>
void column_reduce(Device device, int64_t batches, int64_t rows, int64_t width, const char* name, const Op& op) {
  using Partial = typename Op::Partial;
  if (width == 0 || batches == 0) return;
  CAMO_CHECK(batches <= 65535, name, ": at most 65535 batches on CUDA; got ", batches);
  const int64_t packs = width / Op::kWidth;
  const auto [tile, tiles, height] = ColumnTiles(packs);
  // Eight rows a thread at least, and as many blocks as fill the device a few times.
  const int64_t wanted = int64_t{cuda::device_info(device).multiprocessors} * 8 / (tiles * batches);
  const int64_t parts = std::clamp<int64_t>((rows + height * 8 - 1) / (height * 8), 1, std::max<int64_t>(1, wanted));
  const int64_t rows_per_part = (rows + parts - 1) / parts;
  cudaStream_t stream = cuda::use(device);
  const Tensor scratch = empty({batches * parts * width * static_cast<int64_t>(sizeof(Partial))}, u8, device);
  auto* partials = static_cast<Partial*>(scratch.raw_data());
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts), static_cast<unsigned>(batches));
  cuda::launch(column_partials_kernel<Op>, grid, kColumnThreads, 0, stream, op, rows, rows_per_part,
               static_cast<int>(packs), static_cast<int>(tile), width, partials);
  CAMO_LAUNCHED(name);
  column_finish(device, batches, parts, width, name, op, partials);
}

/// Threads as in column_partials_kernel, without parts: each keeps the parameters of its columns and takes every
/// (256 / tile * gridDim.y)-th row. An operation has kWidth, Parameters, and
///   __device__ Parameters parameters(int64_t batch, int64_t column) const
///   __device__ void apply(int64_t batch, int64_t row, int64_t column, const Parameters& parameters) const
template <class Op>
__global__ void __launch_bounds__(kColumnThreads) column_map_kernel(Op op, int64_t rows, int packs, int tile) {
  cuda::wait_for_previous_kernel();
  const int x = threadIdx.x % tile, y = threadIdx.x / tile, height = kColumnThreads / tile;
  const int64_t pack = int64_t{blockIdx.x} * tile + x;
  if (pack >= packs) return;
  const int64_t column = pack * Op::kWidth, step = int64_t{gridDim.y} * height;
  const typename Op::Parameters parameters = op.parameters(blockIdx.z, column);
#pragma unroll 4
  for (int64_t row = int64_t{blockIdx.y} * height + y; row < rows; row += step)
    op.apply(blockIdx.z, row, column, parameters);
}

/// Applies op to every element of [batches, rows, width]. At most 65535 batches.
template <class Op>
void column_map(Device device, int64_t batches, int64_t rows, int64_t width, const char* name, const Op& op) {
  if (batches == 0 || rows == 0 || width == 0) return;
  const int64_t packs = width / Op::kWidth;
  const auto [tile, tiles, height] = ColumnTiles(packs);
  const int64_t most =
      std::max<int64_t>(1, int64_t{cuda::device_info(device).multiprocessors} * 32 / (tiles * batches));
  const int64_t parts = std::clamp<int64_t>((rows + height * 4 - 1) / (height * 4), 1, most);
  cudaStream_t stream = cuda::use(device);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts), static_cast<unsigned>(batches));
  cuda::launch(column_map_kernel<Op>, grid, kColumnThreads, 0, stream, op, rows, static_cast<int>(packs),
               static_cast<int>(tile));
  CAMO_LAUNCHED(name);
}

}  // namespace camo::detail
