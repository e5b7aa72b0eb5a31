// Views of tensors as dense memory, rows of a matrix, or slabs around one axis, and sums over rows.
#pragma once

#include <algorithm>
#include <vector>

#include "core/autograd.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace camo::detail {

/// x outside of its graph, in row-major memory: itself, or a copy when it is strided.
inline Tensor dense(const Tensor& x) { return x.is_contiguous() ? x.detach() : clone(x); }

/// The step between neighbours along the axes [first, last) taken as one axis; -1 when no single step describes it.
inline int64_t merged_stride(const Tensor& x, int first, int last) {
  int64_t step = 0, extent = 1;
  for (int axis = last - 1; axis >= first; --axis) {
    if (x.shape()[axis] == 1) continue;
    if (extent == 1) step = x.strides()[axis];
    else if (x.strides()[axis] != step * extent) return -1;
    extent *= x.shape()[axis];
  }
  return step;
}

/// A tensor [..., width] as a matrix of rows with contiguous elements.
struct Rows {
  Tensor x;
  int64_t count = 0;
  int64_t width = 0;
  int64_t stride = 0;  // at least width

  template <class T>
  T* row(int64_t i) const {
    return x.data<T>() + i * stride;
  }
};

/// In place where the strides allow it, else a copy. Outside of any graph.
inline Rows as_rows(const Tensor& x) {
  const int64_t width = x.size(-1);
  int64_t count = 1;
  for (int axis = 0; axis + 1 < x.dims(); ++axis) count *= x.shape()[axis];
  if (!x.is_contiguous() && (width == 1 || x.stride(-1) == 1)) {
    const int64_t stride = count == 1 ? width : merged_stride(x, 0, x.dims() - 1);
    if (stride >= width) return {x.detach(), count, width, stride};
  }
  return {dense(x), count, width, width};
}

/// A tensor as [outer, extent, inner] around one axis, with contiguous inner elements.
struct Slabs {
  Tensor x;
  int64_t outer = 1;
  int64_t extent = 0;
  int64_t inner = 1;
  int64_t outer_stride = 0;
  int64_t stride = 0;  // along the axis
};

/// In place where the strides allow it, else a copy. Outside of any graph.
inline Slabs as_slabs(const Tensor& x, int axis) {
  Slabs slabs;
  slabs.extent = x.shape()[axis];
  for (int i = 0; i < axis; ++i) slabs.outer *= x.shape()[i];
  for (int i = axis + 1; i < x.dims(); ++i) slabs.inner *= x.shape()[i];
  if (!x.is_contiguous()) {
    const int64_t inner_stride = slabs.inner == 1 ? 1 : merged_stride(x, axis + 1, x.dims());
    const int64_t outer_stride = merged_stride(x, 0, axis);
    // With nothing behind the axis, elements along it should be the contiguous ones.
    const bool usable = slabs.inner > 1 || x.strides()[axis] == 1 || slabs.extent == 1;
    if (inner_stride == 1 && outer_stride >= 0 && usable) {
      slabs.x = x.detach();
      slabs.outer_stride = outer_stride;
      slabs.stride = x.strides()[axis];
      return slabs;
    }
  }
  slabs.x = dense(x);
  slabs.stride = slabs.inner;
  slabs.outer_stride = slabs.extent * slabs.inner;
  return slabs;
}

/// Sums over rows into `width` columns. add_rows(begin, end, sums) adds rows to sums[width], which starts at zero.
/// Blocks of rows are summed in T, the blocks in order in double, so the result is the same for any number of threads.
template <class T, class AddRows>
std::vector<double> sum_over_rows(int64_t rows, int64_t width, AddRows&& add_rows) {
  constexpr int64_t kBlock = 128;
  std::vector<T> partial(static_cast<size_t>((rows + kBlock - 1) / kBlock * width));
  parallel_blocks(rows, kBlock, [&](int64_t index, int64_t begin, int64_t end) {
    add_rows(begin, end, partial.data() + index * width);
  });
  std::vector<double> sums(static_cast<size_t>(width));
  for (size_t i = 0; i < partial.size(); i += static_cast<size_t>(width)) {
    for (size_t c = 0; c < sums.size(); ++c) sums[c] += static_cast<double>(partial[i + c]);
  }
  return sums;
}

/// A vector of T's dtype from doubles, on the CPU.
template <class T>
Tensor to_tensor(const double* values, int64_t count) {
  Tensor out = empty({count}, dtype_of<T>, cpu);
  std::transform(values, values + count, out.data<T>(), [](double value) { return static_cast<T>(value); });
  return out;
}

/// Sums of the columns of a matrix.
template <class T>
Tensor column_sums(const Rows& x) {
  const auto sums = sum_over_rows<T>(x.count, x.width, [&](int64_t begin, int64_t end, T* acc) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = x.row<T>(i);
#pragma omp simd
      for (int64_t c = 0; c < x.width; ++c) acc[c] += row[c];
    }
  });
  return to_tensor<T>(sums.data(), x.width);
}

/// Rows that make a parallel task worth starting, for rows of this width.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width)); }

}  // namespace camo::detail
