// Reductions of the middle axis of [outer, reduced, inner] to [outer, inner] on the device. The order of the additions
// depends on the extents and the device alone. See reduce_loops.h for the reducers.
//
// A source loads N neighbouring elements (row-major, in the type it computes with) at once; a store takes the result
// for one output. Four elements are combined in the source's own precision before they reach an accumulator.
#pragma once

#include <bit>

#include "core/cuda/packs.cuh"
#include "core/tensor.h"
#include "ops/detail/reduce_loops.h"

namespace camo::detail {

template <class T>
struct DeviceElements {
  using Value = cuda::Value<T>;
  static constexpr int kWidest = cuda::kPackSize<T>;
  const T* x;

  bool is_aligned() const { return cuda::is_aligned(x, kWidest * sizeof(T)); }
  template <int N>
  __device__ void load(int64_t i, Value (&out)[N]) const {
    const auto pack = cuda::load_pack<N>(x + i);
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = convert<Value>(pack.values[n]);
  }
};

template <class T>
struct DeviceProducts {
  using Value = cuda::Value<T>;
  static constexpr int kWidest = cuda::kPackSize<T>;
  const T *a, *b;

  bool is_aligned() const {
    return cuda::is_aligned(a, kWidest * sizeof(T)) && cuda::is_aligned(b, kWidest * sizeof(T));
  }
  template <int N>
  __device__ void load(int64_t i, Value (&out)[N]) const {
    const auto pack_a = cuda::load_pack<N>(a + i), pack_b = cuda::load_pack<N>(b + i);
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = convert<Value>(pack_a.values[n]) * convert<Value>(pack_b.values[n]);
  }
};

template <class T>
struct DeviceSquares {
  using Value = double;
  static constexpr int kWidest = cuda::kPackSize<T>;
  const T* x;

  bool is_aligned() const { return cuda::is_aligned(x, kWidest * sizeof(T)); }
  template <int N>
  __device__ void load(int64_t i, Value (&out)[N]) const {
    const auto pack = cuda::load_pack<N>(x + i);
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = convert<double>(pack.values[n]) * convert<double>(pack.values[n]);
  }
};

struct Keep {
  template <class A>
  __device__ A operator()(A value) const {
    return value;
  }
};
struct DivideBy {
  double count;
  template <class A>
  __device__ double operator()(A value) const {
    return static_cast<double>(value) / count;
  }
};
struct SquareRoot {
  template <class A>
  __device__ double operator()(A value) const {
    return ::sqrt(static_cast<double>(value));
  }
};

/// y[i] = finish(result)
template <class T, class Finish>
struct StoreResult {
  T* y;
  Finish finish;
  template <class A>
  __device__ void operator()(int64_t i, A result) const {
    y[i] = convert<T>(finish(result));
  }
};

/// All N values as one, in a balanced tree.
template <class Reducer, int N, class V>
__device__ V combine_pack(V (&values)[N]) {
#pragma unroll
  for (int width = N / 2; width > 0; width /= 2) {
#pragma unroll
    for (int n = 0; n < width; ++n) values[n] = Reducer::combine(values[n], values[n + width]);
  }
  return values[0];
}

/// Combines over groups of `lanes` (a power of two) neighbouring threads of a full warp; in all of them.
template <class Reducer, class A>
__device__ A combine_lanes(A value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value = Reducer::combine(value, __shfl_xor_sync(~0u, value, offset));
  }
  return value;
}

/// Few elements for each output: one thread for N neighbouring outputs.
template <class Reducer, int N, class Source, class Store>
__global__ void __launch_bounds__(cuda::kBlock)
    reduce_serial_kernel(Source source, Store store, int64_t packs, int64_t reduced, int64_t inner,
                         cuda::FastDivide packs_per_row) {
  cuda::wait_for_previous_kernel();
  using Acc = typename Reducer::Acc;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; p < packs; p += step) {
    const int64_t outer = packs_per_row.divide(static_cast<uint32_t>(p));
    const int64_t column = (p - outer * packs_per_row.divisor) * N;
    Acc acc[N];
#pragma unroll
    for (int n = 0; n < N; ++n) acc[n] = Reducer::identity();
#pragma unroll 4
    for (int64_t r = 0; r < reduced; ++r) {
      typename Source::Value values[N];
      source.template load<N>((outer * reduced + r) * inner + column, values);
#pragma unroll
      for (int n = 0; n < N; ++n) acc[n] = Reducer::combine(acc[n], static_cast<Acc>(values[n]));
    }
#pragma unroll
    for (int n = 0; n < N; ++n) store(outer * inner + column + n, acc[n]);
  }
}

/// Many rows: block ((outer, split), tile) combines `split_rows` rows of lanes * N neighbouring columns. Threads lie
/// over the tile row-major, blockDim / lanes rows at a time; their results meet in shared memory. The store gets
/// [outer, splits, inner].
template <class Reducer, int N, class Source, class Store>
__global__ void __launch_bounds__(512) reduce_columns_kernel(Source source, Store store, int64_t reduced, int64_t inner,
                                                             int lanes, int64_t split_rows, int splits, int tiles) {
  cuda::wait_for_previous_kernel();
  using Acc = typename Reducer::Acc;
  using V = typename Source::Value;
  extern __shared__ __align__(16) char shared_bytes[];
  Acc* const shared = reinterpret_cast<Acc*>(shared_bytes);  // [rows, lanes, N]
  const int lane = threadIdx.x % lanes, row = threadIdx.x / lanes, rows = blockDim.x / lanes;
  const int64_t strip = blockIdx.x / tiles;
  const int64_t column = (int64_t{blockIdx.x % tiles} * lanes + lane) * N;
  const int64_t outer = strip / splits, first = strip % splits * split_rows;
  const bool active = row < rows && column < inner;
  Acc acc[N];
#pragma unroll
  for (int n = 0; n < N; ++n) acc[n] = Reducer::identity();
  if (active) {
    const int64_t end = ::min(reduced, first + split_rows), base = outer * reduced * inner + column;
    int64_t r = first + row;
    for (; r + 3 * rows < end; r += 4 * rows) {
      V values[4][N];
#pragma unroll
      for (int k = 0; k < 4; ++k) source.template load<N>(base + (r + k * rows) * inner, values[k]);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const V four = Reducer::combine(Reducer::combine(values[0][n], values[1][n]),
                                        Reducer::combine(values[2][n], values[3][n]));
        acc[n] = Reducer::combine(acc[n], static_cast<Acc>(four));
      }
    }
    for (; r < end; r += rows) {
      V values[N];
      source.template load<N>(base + r * inner, values);
#pragma unroll
      for (int n = 0; n < N; ++n) acc[n] = Reducer::combine(acc[n], static_cast<Acc>(values[n]));
    }
#pragma unroll
    for (int n = 0; n < N; ++n) shared[threadIdx.x * N + n] = acc[n];
  }
  for (int remaining = rows; remaining > 1;) {
    const int half = (remaining + 1) / 2;
    __syncthreads();
    if (active && row < remaining - half) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        Acc& mine = shared[threadIdx.x * N + n];
        mine = Reducer::combine(mine, shared[(threadIdx.x + half * lanes) * N + n]);
      }
    }
    remaining = half;
  }
  if (active && row == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) store(strip * inner + column + n, shared[threadIdx.x * N + n]);
  }
}

/// Short rows (inner is 1): `lanes` threads of a warp, a power of two, for each row; N divides the row.
template <class Reducer, int N, class Source, class Store>
__global__ void __launch_bounds__(cuda::kBlock)
    reduce_rows_kernel(Source source, Store store, int64_t outer, int64_t reduced, int lanes) {
  cuda::wait_for_previous_kernel();
  using Acc = typename Reducer::Acc;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t step = int64_t{gridDim.x} * blockDim.x / lanes;
  const int64_t lane_of_warp_zero = (thread - threadIdx.x % cuda::kWarp) / lanes;  // the row of the warp's first thread
  for (int64_t start = lane_of_warp_zero, row = thread / lanes; start < outer; start += step, row += step) {
    Acc acc = Reducer::identity();
    if (row < outer) {
#pragma unroll 4
      for (int64_t i = int64_t{lane} * N; i < reduced; i += lanes * N) {
        typename Source::Value values[N];
        source.template load<N>(row * reduced + i, values);
        acc = Reducer::combine(acc, static_cast<Acc>(combine_pack<Reducer>(values)));
      }
    }
    acc = combine_lanes<Reducer>(acc, lanes);
    if (lane == 0 && row < outer) store(row, acc);
  }
}

/// Long rows (inner is 1): block (outer, split) combines `split_size` elements, a multiple of N. The store gets
/// [outer, splits]. Rows that N does not divide need outer to be 1.
template <class Reducer, int N, class Source, class Store>
__global__ void __launch_bounds__(cuda::kBlock)
    reduce_long_rows_kernel(Source source, Store store, int64_t reduced, int64_t split_size, int splits) {
  cuda::wait_for_previous_kernel();
  using Acc = typename Reducer::Acc;
  using V = typename Source::Value;
  const int64_t outer = blockIdx.x / splits, begin = int64_t{blockIdx.x % splits} * split_size;
  const int64_t end = ::min(reduced, begin + split_size), base = outer * reduced, step = int64_t{blockDim.x} * N;
  Acc acc = Reducer::identity();
  int64_t i = begin + int64_t{threadIdx.x} * N;
  for (; i + 3 * step + N <= end; i += 4 * step) {
    V values[4][N];
#pragma unroll
    for (int k = 0; k < 4; ++k) source.template load<N>(base + i + k * step, values[k]);
#pragma unroll
    for (int k = 0; k < 4; ++k) acc = Reducer::combine(acc, static_cast<Acc>(combine_pack<Reducer>(values[k])));
  }
  for (; i + N <= end; i += step) {
    V values[N];
    source.template load<N>(base + i, values);
    acc = Reducer::combine(acc, static_cast<Acc>(combine_pack<Reducer>(values)));
  }
  const int64_t tail = (end - begin) % N;
  if (threadIdx.x < tail) {
    V value[1];
    source.template load<1>(base + end - tail + threadIdx.x, value);
    acc = Reducer::combine(acc, static_cast<Acc>(value[0]));
  }
  __shared__ Acc warps[cuda::kBlock / cuda::kWarp];
  acc = combine_lanes<Reducer>(acc, cuda::kWarp);
  if (threadIdx.x % cuda::kWarp == 0) warps[threadIdx.x / cuda::kWarp] = acc;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int w = 1; w < cuda::kBlock / cuda::kWarp; ++w) acc = Reducer::combine(acc, warps[w]);
    store(blockIdx.x, acc);
  }
}

/// What one launch of a reduction works on.
template <class Source, class Store>
struct DeviceReduction {
  Device device;
  Source source;
  Store store;
  int64_t outer, reduced, inner;
  const char* name;
};

/// Runs `first` on parts of the reduced axis, [outer, parts, inner], and combines the parts in a second launch.
template <template <class> class Reducer, class Source, class Store, class First>
void reduce_in_parts(const DeviceReduction<Source, Store>& task, int parts, First first);

template <template <class> class Reducer, int N, class Source, class Store>
void launch_columns(const DeviceReduction<Source, Store>& task, bool last) {
  using R = Reducer<typename Source::Value>;
  using Acc = typename R::Acc;
  const int64_t packs = task.inner / N;
  const int64_t widest = last ? 8 : 64;  // lanes of a block; hundreds of parts are few rows for each of many threads
  const int64_t tiles = (packs + widest - 1) / widest;
  const int lanes = static_cast<int>((packs + tiles - 1) / tiles);
  const int block = last ? 512 : cuda::kBlock, rows = block / lanes;
  const int64_t full = int64_t{cuda::device_info(task.device).multiprocessors} * (N == 1 ? 8 : 4);  // blocks
  const int64_t useful = last ? 1 : (task.reduced + 8 * rows - 1) / (8 * rows);
  const int64_t wanted = std::clamp<int64_t>(full / (tiles * task.outer), 1, useful);
  const int64_t split_rows = (task.reduced + wanted - 1) / wanted;
  const int splits = static_cast<int>((task.reduced + split_rows - 1) / split_rows);
  const int64_t blocks = task.outer * splits * tiles;
  CAMO_CHECK(blocks < (int64_t{1} << 31), task.name, ": too many rows for CUDA; got ", task.outer, " x ", task.reduced,
             " x ", task.inner);
  const auto launch = [&](auto store) {
    cuda::launch(reduce_columns_kernel<R, N, Source, decltype(store)>, static_cast<unsigned>(blocks), block,
                 block * N * sizeof(Acc), cuda::use(task.device), task.source, store, task.reduced, task.inner, lanes,
                 split_rows, splits, static_cast<int>(tiles));
    CAMO_LAUNCHED(task.name);
  };
  if (splits == 1) launch(task.store);
  else reduce_in_parts<Reducer>(task, splits, launch);
}

template <template <class> class Reducer, int N, class Source, class Store>
void launch_serial(const DeviceReduction<Source, Store>& task) {
  const int64_t packs = task.outer * task.inner / N;
  CAMO_CHECK(packs < (int64_t{1} << 31), task.name, ": at most 2^31 results on CUDA; got ", task.outer, " x ",
             task.inner);
  cuda::launch(reduce_serial_kernel<Reducer<typename Source::Value>, N, Source, Store>,
               cuda::grid_for(packs, task.device), cuda::kBlock, 0, cuda::use(task.device), task.source, task.store,
               packs, task.reduced, task.inner, cuda::FastDivide(static_cast<uint32_t>(task.inner / N)));
  CAMO_LAUNCHED(task.name);
}

template <template <class> class Reducer, int N, class Source, class Store>
void launch_rows(const DeviceReduction<Source, Store>& task) {
  const int64_t packs = std::max<int64_t>(1, task.reduced / N);
  const int lanes = static_cast<int>(std::min<uint64_t>(cuda::kWarp, std::bit_ceil(static_cast<uint64_t>(packs))));
  cuda::launch(reduce_rows_kernel<Reducer<typename Source::Value>, N, Source, Store>,
               cuda::grid_for(task.outer * lanes, task.device), cuda::kBlock, 0, cuda::use(task.device), task.source,
               task.store, task.outer, task.reduced, lanes);
  CAMO_LAUNCHED(task.name);
}

template <template <class> class Reducer, int N, class Source, class Store>
void launch_long_rows(const DeviceReduction<Source, Store>& task, bool last) {
  using R = Reducer<typename Source::Value>;
  constexpr int64_t kUseful = int64_t{cuda::kBlock} * N * 4;  // elements that keep a block busy
  const int64_t full = int64_t{cuda::device_info(task.device).multiprocessors} * 4;
  const int64_t useful = last ? 1 : (task.reduced + kUseful - 1) / kUseful;
  const int64_t wanted = std::clamp<int64_t>(full / task.outer, 1, useful);
  const int64_t split_size = ((task.reduced + wanted - 1) / wanted + N - 1) / N * N;
  const int splits = static_cast<int>((task.reduced + split_size - 1) / split_size);
  const auto launch = [&](auto store) {
    cuda::launch(reduce_long_rows_kernel<R, N, Source, decltype(store)>, static_cast<unsigned>(task.outer * splits),
                 cuda::kBlock, 0, cuda::use(task.device), task.source, store, task.reduced, split_size, splits);
    CAMO_LAUNCHED(task.name);
  };
  if (splits == 1) launch(task.store);
  else reduce_in_parts<Reducer>(task, splits, launch);
}

template <template <class> class Reducer, int N, class Source, class Store>
void launch_reduction(const DeviceReduction<Source, Store>& task, bool last) {
  constexpr int64_t kFewRows = 16, kLongRow = 1024;
  if (task.inner > 1 && task.reduced <= kFewRows) launch_serial<Reducer, N>(task);
  else if (task.inner > 1) launch_columns<Reducer, N>(task, last);
  else if (task.reduced <= (last ? 128 : kLongRow)) launch_rows<Reducer, N>(task);
  else launch_long_rows<Reducer, N>(task, last);
}

template <template <class> class Reducer, class Source, class Store, class First>
void reduce_in_parts(const DeviceReduction<Source, Store>& task, int parts, First first) {
  using Acc = typename Reducer<typename Source::Value>::Acc;
  const Tensor partial = empty({task.outer, parts, task.inner}, dtype_of<Acc>, task.device);
  first(StoreResult<Acc, Keep>{partial.data<Acc>(), {}});
  using Parts = DeviceElements<Acc>;
  launch_reduction<Reducer, 1>(DeviceReduction<Parts, Store>{task.device, Parts{partial.data<Acc>()}, task.store,
                                                             task.outer, parts, task.inner, task.name},
                               true);
}

/// store(o * inner + c, reduction over r of source element [o, r, c]). No extent is 0.
template <template <class> class Reducer, class Source, class Store>
void reduce_middle_cuda(Device device, Source source, Store store, int64_t outer, int64_t reduced, int64_t inner,
                        const char* name) {
  constexpr int kWidest = Source::kWidest;
  const DeviceReduction<Source, Store> task{device, source, store, outer, reduced, inner, name};
  const int64_t row = inner > 1 ? inner : reduced;
  // One long row may have a rest; all others start anew at a multiple of their length.
  const bool fits = row % kWidest == 0 || (inner == 1 && outer == 1 && reduced > 1024);
  if (fits && source.is_aligned()) launch_reduction<Reducer, kWidest>(task, false);
  else launch_reduction<Reducer, 1>(task, false);
}

/// The same for later passes over results of an earlier one, which are small: fewer kernels.
template <template <class> class Reducer, class Source, class Store>
void reduce_again_cuda(Device device, Source source, Store store, int64_t outer, int64_t reduced, int64_t inner,
                       const char* name) {
  launch_reduction<Reducer, 1>(DeviceReduction<Source, Store>{device, source, store, outer, reduced, inner, name},
                               false);
}

}  // namespace camo::detail
