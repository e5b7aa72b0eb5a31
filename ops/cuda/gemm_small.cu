// A block makes up to 256 rows and all columns of one product. Chunks of the depth of both matrices lie in shared
// memory as f32, depth by depth; a thread adds up 4 x 4 results, and where that leaves threads over, they take every
// `slices`-th step of the depth and meet in shared memory at the end.
#ifdef __CUDACC__
#include <algorithm>
#include <utility>

#include "core/cuda/kernels.cuh"
#include "core/cuda/packs.cuh"
#include "core/tensor.h"
#include "ops/cuda/gemm_small.h"

namespace camo::cuda {
namespace {

constexpr int kMostExtent = 80;  // of what one block keeps in registers
constexpr int kMostRows = 256;   // of a block
constexpr int kEnoughThreads = 384;
constexpr int kMostThreads = 416;       // a block of 80 x 80 results
constexpr int kFloats = 48 * 1024 / 4;  // of shared memory

/// The matrices of one operand. Along the depth, or across it: along the rows of a, the columns of b.
template <class T>
struct SmallOperand {
  const T* data;
  int64_t outer_stride, inner_stride;
  int64_t across_stride, depth_stride;  // one of them is 1

  __device__ const T* matrix(int outer, int inner) const { return data + outer * outer_stride + inner * inner_stride; }
};

template <class T, class R>
struct SmallGemm {
  SmallOperand<T> a, b;
  R* c;
  int64_t c_outer_stride, c_inner_stride, c_row_stride, c_col_stride;
  int rows, cols, depth, inner;
  int tile_rows, tile_cols;  // multiples of 4; all columns are one tile
  int tiles, chunk, slices;  // chunk: a multiple of 4
  bool accumulate;

  int groups() const { return tile_rows / 4 * (tile_cols / 4); }
};

/// `load(i, values)` and `store(i, values)` for i < count, shared out among the threads. Each has several loads on
/// their way at a time.
template <int N, class Load, class Store>
__device__ void copy_packs(int count, Load load, Store store) {
  constexpr int kOnTheirWay = 4;
  for (int begin = threadIdx.x; begin < count; begin += kOnTheirWay * blockDim.x) {
    float values[kOnTheirWay][N] = {};
#pragma unroll
    for (int u = 0; u < kOnTheirWay; ++u) {
      const int i = begin + u * blockDim.x;
      if (i < count) load(i, values[u]);
    }
#pragma unroll
    for (int u = 0; u < kOnTheirWay; ++u) {
      const int i = begin + u * blockDim.x;
      if (i < count) store(i, values[u]);
    }
  }
}

/// tile[k][i] for k < depth and i < width; 0 for i >= across. Neighbouring threads read neighbouring memory where that
/// lies across; else each reads along the depth, so that they write to neighbouring memory.
template <int N, class T>
__device__ void load_tile(float* tile, int width, const SmallOperand<T>& x, const T* from, int across, int depth) {
  if (x.across_stride == 1) {
    const int packs = width / N;
    copy_packs<N>(
        packs * depth,
        [&](int i, float(&values)[N]) {
          const int k = i / packs, column = (i - k * packs) * N;
          if (column < across) load_constants<N>(from + k * x.depth_stride + column, values);
        },
        [&](int i, const float(&values)[N]) {
#pragma unroll
          for (int n = 0; n < N; ++n) tile[i * N + n] = values[n];
        });
  } else {
    copy_packs<N>(
        width * (depth / N),
        [&](int i, float(&values)[N]) {
          const int pack = i / width, column = i - pack * width;
          if (column < across) load_constants<N>(from + column * x.across_stride + pack * N, values);
        },
        [&](int i, const float(&values)[N]) {
          const int pack = i / width, column = i - pack * width;
#pragma unroll
          for (int n = 0; n < N; ++n) tile[(pack * N + n) * width + column] = values[n];
        });
  }
}

template <int N, class T, class R>
__global__ void __launch_bounds__(kMostThreads) gemm_small_kernel(SmallGemm<T, R> gemm) {
  wait_for_previous_kernel();
  extern __shared__ __align__(16) float s_memory[];
  const int height = gemm.tile_rows, width = gemm.tile_cols;
  float* const s_a = s_memory;                        // [chunk][height]
  float* const s_b = s_memory + gemm.chunk * height;  // [chunk][width]
  const int batch = blockIdx.x / gemm.tiles, first_row = blockIdx.x % gemm.tiles * height;
  const int outer = batch / gemm.inner, inner = batch % gemm.inner;
  const int rows = ::min(height, gemm.rows - first_row);
  const T* a = gemm.a.matrix(outer, inner) + first_row * gemm.a.across_stride;
  const T* b = gemm.b.matrix(outer, inner);

  const int across = width / 4, groups = height / 4 * across;
  const int slice = threadIdx.x / groups, group = threadIdx.x % groups;
  const int row = group / across * 4, column = group % across * 4;
  const bool active = slice < gemm.slices;
  float r_sums[4][4] = {};
  for (int begin = 0; begin < gemm.depth; begin += gemm.chunk) {
    const int depth = ::min(gemm.chunk, gemm.depth - begin);
    __syncthreads();
    load_tile<N>(s_a, height, gemm.a, a + begin * gemm.a.depth_stride, rows, depth);
    load_tile<N>(s_b, width, gemm.b, b + begin * gemm.b.depth_stride, gemm.cols, depth);
    __syncthreads();
    for (int k = slice; active && k < depth; k += gemm.slices) {
      const float4 left = *reinterpret_cast<const float4*>(s_a + k * height + row);
      const float4 right = *reinterpret_cast<const float4*>(s_b + k * width + column);
      const float r_left[4] = {left.x, left.y, left.z, left.w}, r_right[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) r_sums[i][j] = fmaf(r_left[i], r_right[j], r_sums[i][j]);
      }
    }
  }

  __syncthreads();
  if (active) {  // [slices][height][width]
    float* const s_sums = s_memory + slice * height * width;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<float4*>(s_sums + (row + i) * width + column) =
          make_float4(r_sums[i][0], r_sums[i][1], r_sums[i][2], r_sums[i][3]);
    }
  }
  __syncthreads();
  R* const c = gemm.c + outer * gemm.c_outer_stride + inner * gemm.c_inner_stride + first_row * gemm.c_row_stride;
  const bool by_rows = gemm.c_col_stride == 1;
  const int length = by_rows ? gemm.cols : rows;  // of what is contiguous
  for (int e = threadIdx.x; e < rows * gemm.cols; e += blockDim.x) {
    const int i = by_rows ? e / length : e % length, j = by_rows ? e % length : e / length;
    float sum = 0;
    for (int s = 0; s < gemm.slices; ++s) sum += s_memory[(s * height + i) * width + j];
    R& result = c[i * gemm.c_row_stride + j * gemm.c_col_stride];
    result = convert<R>(gemm.accumulate ? convert<float>(result) + sum : sum);
  }
}

template <class T>
SmallOperand<T> operand(const detail::CudaMatrix& x, bool along_depth) {
  return {static_cast<const T*>(x.data), x.outer_stride, x.inner_stride, along_depth ? x.ld : 1,
          along_depth ? 1 : x.ld};
}

/// Whether packs of four fit an operand, whose contiguous axis has this extent.
template <class T>
bool takes_packs(const detail::CudaMatrix& x, int64_t contiguous) {
  return PackLimits{{x.data}, {x.ld, x.outer_stride, x.inner_stride, contiguous}}.allow(4, 4 * sizeof(T));
}

int round_up(int64_t value, int step) { return static_cast<int>((value + step - 1) / step * step); }

/// The same product with the columns as rows: c^T = b^T a^T.
detail::CudaGemm transposed(detail::CudaGemm gemm) {
  std::swap(gemm.rows, gemm.cols);
  std::swap(gemm.a, gemm.b);
  for (detail::CudaMatrix* x : {&gemm.a, &gemm.b, &gemm.c}) x->transposed = !x->transposed;
  return gemm;
}

template <class T, class R>
void launch_small(const detail::CudaGemm& gemm) {
  SmallGemm<T, R> task{.a = operand<T>(gemm.a, !gemm.a.transposed),
                       .b = operand<T>(gemm.b, gemm.b.transposed),
                       .c = static_cast<R*>(gemm.c.data),
                       .c_outer_stride = gemm.c.outer_stride,
                       .c_inner_stride = gemm.c.inner_stride,
                       .c_row_stride = gemm.c.transposed ? 1 : gemm.c.ld,
                       .c_col_stride = gemm.c.transposed ? gemm.c.ld : 1,
                       .rows = static_cast<int>(gemm.rows),
                       .cols = static_cast<int>(gemm.cols),
                       .depth = static_cast<int>(gemm.depth),
                       .inner = static_cast<int>(gemm.inner),
                       .tile_rows = round_up(gemm.rows, 4),
                       .tile_cols = round_up(gemm.cols, 4),
                       .tiles = 1,
                       .chunk = 0,
                       .slices = 1,
                       .accumulate = gemm.accumulate};
  if (gemm.rows > kMostExtent) {
    task.tile_rows = std::min({kMostRows, kEnoughThreads / (task.tile_cols / 4) * 4, task.tile_rows});
    task.tile_rows = std::min(task.tile_rows, kFloats / 2 / task.tile_cols / 4 * 4);
  }
  task.tiles = static_cast<int>((gemm.rows + task.tile_rows - 1) / task.tile_rows);
  task.chunk = std::min(round_up(gemm.depth, 4), kFloats / (task.tile_rows + task.tile_cols) / 4 * 4);
  const int area = task.tile_rows * task.tile_cols;
  task.slices = std::clamp(std::min(kEnoughThreads / task.groups(), kFloats / area), 1, task.chunk);
  const size_t floats = std::max<size_t>(static_cast<size_t>(task.chunk) * (task.tile_rows + task.tile_cols),
                                         static_cast<size_t>(task.slices) * area);
  const int block = round_up(task.groups() * task.slices, kWarp);
  const int64_t blocks = gemm.outer * gemm.inner * task.tiles;
  CAMO_CHECK(blocks < (int64_t{1} << 31), "matmul: too many products for CUDA; got ", gemm.outer * gemm.inner);
  const bool packs = takes_packs<T>(gemm.a, gemm.a.transposed ? gemm.rows : gemm.depth) &&
                     takes_packs<T>(gemm.b, gemm.b.transposed ? gemm.depth : gemm.cols);
  const auto run = [&](auto kernel) {
    launch(kernel, static_cast<unsigned>(blocks), block, floats * sizeof(float), use(gemm.device), task);
    CAMO_LAUNCHED("matmul");
  };
  if (packs) run(gemm_small_kernel<4, T, R>);
  else run(gemm_small_kernel<1, T, R>);
}

}  // namespace

bool fits_gemm_small(const detail::CudaGemm& gemm) {
  constexpr int64_t kMost = int64_t{1} << 30;
  const int small = (gemm.rows <= kMostExtent) + (gemm.cols <= kMostExtent) + (gemm.depth <= kMostExtent);
  return gemm.outer > 1 && gemm.inner > 1 && small >= 2 && std::max({gemm.rows, gemm.cols, gemm.depth}) < kMost &&
         gemm.dtype != f64 && gemm.epilogue == detail::GemmEpilogue::none;
}

void gemm_small(const detail::CudaGemm& request) {
  const detail::CudaGemm gemm = request.cols > kMostExtent ? transposed(request) : request;
  const auto run = [&]<class T>() {
    if (gemm.out == f32) launch_small<T, float>(gemm);
    else launch_small<T, T>(gemm);
  };
  if (gemm.dtype == f32) run.template operator()<float>();
  else if (gemm.dtype == f16) run.template operator()<Half>();
  else run.template operator()<BFloat16>();
}

}  // namespace camo::cuda
#endif
