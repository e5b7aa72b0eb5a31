// What dispatch_rows and combine_rows share: checks, and the weighted sum of rows.
#pragma once

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "ops/detail/in_f32.h"
#include "ops/expert_rows.h"
#ifdef __CUDACC__
#include "core/cuda/kernels.cuh"
#endif

namespace camo::detail {

/// Slots an image. Throws unless every row of parts of these sizes has exactly one place.
inline int64_t check_places(const std::vector<RowPlace>& places, int64_t images, const std::vector<int64_t>& sizes,
                            const char* op) {
  const auto count = static_cast<int64_t>(places.size());
  CAMO_CHECK(images == 0 ? count == 0 : count % images == 0, op, ": every image needs as many slots; got ", count,
             " places for ", images, " images");
  std::vector<std::vector<bool>> taken;
  int64_t rows = 0;
  for (const int64_t size : sizes) {
    CAMO_CHECK(size >= 0, op, ": part sizes must not be negative; got ", size);
    taken.emplace_back(static_cast<size_t>(size));
    rows += size;
  }
  CAMO_CHECK(rows == count, op, ": every row must belong to one slot; got ", rows, " rows and ", count, " places");
  for (const RowPlace& place : places) {
    const bool exists = place.part >= 0 && place.part < static_cast<int64_t>(sizes.size()) && place.row >= 0 &&
                        place.row < sizes[static_cast<size_t>(place.part)];
    CAMO_CHECK(exists, op, ": places must lie within the parts; got row ", place.row, " of part ", place.part);
    auto slot = taken[static_cast<size_t>(place.part)].begin() + place.row;
    CAMO_CHECK(!*slot, op, ": every row must belong to one slot; got row ", place.row, " of part ", place.part,
               " twice");
    *slot = true;
  }
  return images == 0 ? 0 : count / images;
}

/// Elements of one slice along the first axis.
inline int64_t row_length(const Shape& shape) {
  int64_t length = 1;
  for (int i = 1; i < shape.size(); ++i) length *= shape[i];
  return length;
}

/// The first element of a place; null where the part is undefined. Parts are contiguous.
template <class T>
T* row_of(const Tensors& parts, const RowPlace& place, int64_t length) {
  const Tensor& part = parts[static_cast<size_t>(place.part)];
  return part.defined() ? part.data<T>() + place.row * length : nullptr;
}

inline constexpr int64_t kRowBlock = 4096;  // elements that stay in a CPU's nearest cache

template <class T>
void sum_rows_cpu(const Tensor& y, const Tensors& parts, const std::vector<RowPlace>& places, const Tensor& weights) {
  const int64_t images = y.size(0), length = row_length(y.shape());
  const int64_t slots = static_cast<int64_t>(places.size()) / images, blocks = (length + kRowBlock - 1) / kRowBlock;
  const T* const factors = weights.defined() ? weights.data<T>() : nullptr;
  T* const out = y.data<T>();
  parallel_for(images * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / blocks, first = at % blocks * kRowBlock, count = std::min(kRowBlock, length - first);
      T* __restrict to = out + b * length + first;
      std::fill_n(to, count, T(0));
      for (int64_t s = 0; s < slots; ++s) {
        const T* from = row_of<const T>(parts, places[static_cast<size_t>(b * slots + s)], length);
        if (from == nullptr) continue;
        from += first;
        const T factor = factors != nullptr ? factors[b * slots + s] : T(1);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
      }
    }
  });
}

#ifdef __CUDACC__
/// Addresses of rows, as kernel arguments: nothing is uploaded.
template <class Entry>
struct RowTable {
  static constexpr int64_t kCapacity = 1024;
  Entry entries[kCapacity];
};

/// y = sum over the slots s of weights[s] * row_of(s), without weights the plain sum; null rows count as zeros. Threads
/// along x, of all blocks, share the row.
template <class T, int N, class RowOf>
__device__ void sum_slots(int slots, const T* weights, T* y, int64_t length, RowOf row_of) {
  using A = cuda::Accumulator<T>;
  using Pack = cuda::Pack<T, N>;
  Pack* const out = reinterpret_cast<Pack*>(y);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < length / N; i += step) {
    A sum[N] = {};
    for (int s = 0; s < slots; ++s) {
      const T* const row = row_of(s);
      if (row == nullptr) continue;
      const A factor = weights != nullptr ? convert<A>(weights[s]) : A(1);
      const Pack pack = reinterpret_cast<const Pack*>(row)[i];
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += factor * convert<A>(pack.values[k]);
    }
    Pack result;
#pragma unroll
    for (int k = 0; k < N; ++k) result.values[k] = convert<T>(sum[k]);
    out[i] = result;
  }
}

/// grid.y: the images of this launch.
template <class T, int N>
__global__ void __launch_bounds__(cuda::kBlock) sum_rows_kernel(const __grid_constant__ RowTable<const T*> table,
                                                                int slots, const T* weights, T* y, int64_t length) {
  cuda::wait_for_previous_kernel();
  const int64_t first = int64_t{blockIdx.y} * slots;
  sum_slots<T, N>(slots, weights != nullptr ? weights + first : nullptr, y + blockIdx.y * length, length,
                  [&](int s) { return table.entries[first + s]; });
}

/// Blocks along a row of `length` elements, N at a time.
inline unsigned row_blocks(int64_t length, int pack, int64_t limit = 1024) {
  const int64_t wanted = (length / pack + cuda::kBlock - 1) / cuda::kBlock;
  return static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, limit));
}

template <class T>
void sum_rows_cuda(const Tensor& y, const Tensors& parts, const std::vector<RowPlace>& places, const Tensor& weights) {
  constexpr int N = cuda::kPackSize<T>;
  const int64_t images = y.size(0), length = row_length(y.shape());
  const int64_t slots = static_cast<int64_t>(places.size()) / images;
  CAMO_CHECK(slots <= RowTable<const T*>::kCapacity, "combine_rows: at most ", RowTable<const T*>::kCapacity,
             " slots an image on CUDA; got ", slots);
  const int64_t images_at_once = RowTable<const T*>::kCapacity / std::max<int64_t>(1, slots);
  cudaStream_t stream = cuda::use(y.device());
  for (int64_t b = 0; b < images; b += images_at_once) {
    const int64_t count = std::min(images_at_once, images - b);
    RowTable<const T*> table;
    bool packed = length % N == 0 && cuda::is_aligned(y.raw_data(), 16);
    for (int64_t i = 0; i < count * slots; ++i) {
      table.entries[i] = row_of<const T>(parts, places[static_cast<size_t>(b * slots + i)], length);
      packed = packed && cuda::is_aligned(table.entries[i], 16);
    }
    const T* const factors = weights.defined() ? weights.data<T>() + b * slots : nullptr;
    T* const out = y.data<T>() + b * length;
    const dim3 grid(row_blocks(length, packed ? N : 1), static_cast<unsigned>(count));
    const int slot_count = static_cast<int>(slots);
    if (packed)
      cuda::launch(sum_rows_kernel<T, N>, grid, cuda::kBlock, 0, stream, table, slot_count, factors, out, length);
    else cuda::launch(sum_rows_kernel<T, 1>, grid, cuda::kBlock, 0, stream, table, slot_count, factors, out, length);
    CAMO_LAUNCHED("sum_rows");
  }
}
#endif

/// y[b] = sum over s of weights[b, s] * row, without weights the plain sum. Undefined parts count as zeros. All tensors
/// are contiguous, on one device and of one dtype.
inline void sum_rows(const Tensor& y, const Tensors& parts, const std::vector<RowPlace>& places, const Tensor& weights,
                     const char* op) {
  if (y.numel() == 0) return;
  if (y.is_cuda()) {
#ifdef __CUDACC__
    cuda::dispatch_floating(y.dtype(), op, [&]<class T>() { sum_rows_cuda<T>(y, parts, places, weights); });
#endif
  } else if (needs_f32(y)) {
    Tensors wide;
    for (const Tensor& part : parts) wide.push_back(part.defined() ? in_f32(part) : part);
    const Tensor sum = empty(y.shape(), f32, cpu);
    sum_rows(sum, wide, places, weights.defined() ? in_f32(weights) : weights, op);
    copy_into(y, sum);
  } else {
    dispatch_floating(y.dtype(), op, [&]<class T>() { sum_rows_cpu<T>(y, parts, places, weights); });
  }
}

}  // namespace camo::detail
