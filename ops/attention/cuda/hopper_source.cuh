// Tensor maps for the Hopper kernels: how TMA is told of a strided [B, N, H, D] tensor.
#pragma once

#include <cudaTypedefs.h>

#include <algorithm>
#include <type_traits>

#include "core/error.h"
#include "ops/attention/cuda/call.cuh"
#include "ops/attention/cuda/hopper_ptx.cuh"
#include "ops/attention/window.h"

namespace camo::flash::hopper {

/// A [B, N, H, D] tensor for TMA, as [batch, rows, heads, columns]; or, where heads follow each other at odd places, as
/// [batch, rows, 1, columns of all heads]. Boxes begin at multiples of 16 bytes: a head's columns then stand `offset`
/// behind the first of the box, between those of its neighbours.
struct Source {
  CUtensorMap map;
  int first_column = 0, columns_per_head = 0, heads_per_head = 1;

  __device__ int offset(int h) const { return (first_column + h * columns_per_head) % 8; }
  __device__ void load(uint32_t to, uint32_t barrier, int panel, int b, int h, int row) const {
    const int column = (first_column + h * columns_per_head) / 8 * 8;
    load_box(to, map, barrier, column + panel * kPanel, h * heads_per_head, row, b);
  }
};

/// Whether boxes of x bring channels of other heads beside its own.
template <class T>
bool heads_are_merged(const Heads<const T>& x) {
  return x.head % 8 != 0 || reinterpret_cast<uintptr_t>(x.data) % 16 != 0;
}
/// Whether TMA can read x.
template <class T>
bool is_loadable(const Heads<const T>& x, int batch, int rows) {
  const auto fits = [](int64_t stride, int count) { return count == 1 || (stride > 0 && stride % 8 == 0); };
  return x.head > 0 && fits(x.row, rows) && fits(x.batch, batch);
}
/// Whether the columns of both stand at one offset in every head: they can be contracted.
template <class T>
bool offsets_agree(const Heads<const T>& x, const Heads<const T>& y) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == reinterpret_cast<uintptr_t>(y.data) % 16 &&
         x.head % 8 == y.head % 8;
}
/// D and the most columns that stand before a head's own in boxes of these tensors.
template <class T>
int boxed_width(int width, int heads, const Heads<const T>& x, const Heads<const T>& y) {
  int largest = 0;
  for (const Heads<const T>* one : {&x, &y}) {
    for (int h = 0; h < heads && h < 8; ++h) {  // offsets repeat after eight heads
      largest = std::max(largest, static_cast<int>((reinterpret_cast<uintptr_t>(one->data) / 2 + h * one->head) % 8));
    }
  }
  return width + largest;
}

/// What the kernels are told of a call beside its tensors.
struct Sizes {
  int heads = 0, queries = 0, keys = 0, width = 0;
  float scale = 1;
};
template <class T>
Sizes sizes_of(const Call<T>& call) {
  return {call.heads, call.queries, call.keys, call.width, call.scale};
}

/// Columns that tiles hold: of heads packed side by side, so that the tile depends on the width alone. Wider boxes are
/// not taken.
inline int tile_width(int width) { return static_cast<int>(std::min<int64_t>(packed_window(width), 256)); }

/// The driver's function, found at run time: the program starts where there is no driver. Null where the driver lacks
/// it.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const auto status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function)
               : nullptr;
  }();
  return encoder;
}

inline void check_map(CUresult status) {
  if (status == CUDA_SUCCESS) return;
  fail(ErrorCode::device, "scaled_dot_product_attention: cuTensorMapEncodeTiled failed with CUDA driver error ",
       static_cast<int>(status));
}

/// Boxes of `box_rows` rows and one panel.
template <class T>
Source source_of(const Heads<const T>& x, int batch, int rows, int heads, int width, int box_rows) {
  Source source;
  auto start = reinterpret_cast<uintptr_t>(x.data);
  cuuint64_t columns = static_cast<cuuint64_t>(width), head_count = static_cast<cuuint64_t>(heads), head_bytes = 16;
  if (heads_are_merged(x)) {
    source.first_column = static_cast<int>(start % 16 / 2);
    source.columns_per_head = static_cast<int>(x.head);
    source.heads_per_head = 0;
    start -= start % 16;
    columns = static_cast<cuuint64_t>(source.first_column + (heads - 1) * x.head + width);
    head_count = 1;
  } else if (heads > 1) {
    head_bytes = static_cast<cuuint64_t>(x.head) * 2;
  }
  const cuuint64_t sizes[4] = {columns, head_count, static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(batch)};
  const cuuint64_t strides[3] = {head_bytes, rows > 1 ? static_cast<cuuint64_t>(x.row) * 2 : 16,
                                 batch > 1 ? static_cast<cuuint64_t>(x.batch) * 2 : 16};
  const cuuint32_t box[4] = {kPanel, 1, static_cast<cuuint32_t>(box_rows), 1}, steps[4] = {1, 1, 1, 1};
  constexpr auto kType = std::is_same_v<T, Half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult status = tensor_map_encoder()(&source.map, kType, 4, reinterpret_cast<void*>(start), sizes, strides,
                                               box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_map(status);
  return source;
}

/// Rows of f32, one a box.
inline CUtensorMap rows_map(float* data, int64_t rows, int columns) {
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride = static_cast<cuuint64_t>(columns) * sizeof(float);
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(columns), 1}, steps[2] = {1, 1};
  const CUresult status = tensor_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, data, sizes, &stride, box,
                                               steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                                               CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_map(status);
  return map;
}

}  // namespace camo::flash::hopper
