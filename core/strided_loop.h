// Loops over one element of each of K operands that share a shape but not strides (0 on broadcast axes).
#pragma once

#include <array>
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace camo::detail {

/// Strides of x seen as a tensor of `shape`, to which its own shape broadcasts.
inline Shape broadcast_strides(const Tensor& x, const Shape& shape) {
  Shape strides = Shape::filled(shape.size(), 0);
  const int lead = shape.size() - x.dims();
  for (int i = 0; i < x.dims(); ++i)
    if (x.shape()[i] != 1) strides[lead + i] = x.strides()[i];
  return strides;
}

/// The axes of a loop: extents of 1 dropped, neighbours merged wherever every operand can step through both as one.
template <int K>
struct LoopAxes {
  Shape shape;  // at least two axes, the innermost last
  std::array<Shape, K> strides;

  LoopAxes(const Shape& full_shape, const std::array<Shape, K>& full_strides) {
    for (int i = 0; i < full_shape.size(); ++i) {
      if (full_shape[i] == 1) continue;
      const int last = shape.size() - 1;
      bool merge = last >= 0;
      for (int k = 0; merge && k < K; ++k) {
        const auto& own = full_strides[static_cast<size_t>(k)];
        merge = strides[static_cast<size_t>(k)][last] == own[i] * full_shape[i];
      }
      if (merge) shape[last] *= full_shape[i];
      else shape.push_back(full_shape[i]);
      for (int k = 0; k < K; ++k) {
        auto& kept = strides[static_cast<size_t>(k)];
        const int64_t step = full_strides[static_cast<size_t>(k)][i];
        if (merge) kept[last] = step;
        else kept.push_back(step);
      }
    }
    while (shape.size() < 2) {
      shape.insert(0, 1);
      for (auto& kept : strides) kept.insert(0, 0);
    }
  }
};

/// Calls inner(count, offsets, steps) for runs along the innermost axis that together visit every element once, on
/// several threads: element i of a run lies at offsets[k] + i * steps[k] in operand k.
template <int K, class Inner>
void strided_loop(const Shape& full_shape, const std::array<Shape, K>& full_strides, Inner&& inner) {
  const int64_t numel = full_shape.numel();
  if (numel == 0) return;
  const LoopAxes<K> axes(full_shape, full_strides);
  const int last = axes.shape.size() - 1;
  const int64_t row_length = axes.shape[last], rows = axes.shape[last - 1];
  std::array<int64_t, K> steps, row_steps;
  for (size_t k = 0; k < K; ++k) {
    steps[k] = axes.strides[k][last];
    row_steps[k] = axes.strides[k][last - 1];
  }
  constexpr int64_t kGrain = 16384;  // elements for which a thread is worth waking
  parallel_for(numel, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t position = begin; position < end;) {
      // Where `position` lies: its column, its row, and the offsets that the outer axes add.
      const int64_t column = position % row_length;
      int64_t row = position / row_length;
      int64_t outer = row / rows;
      row %= rows;
      std::array<int64_t, K> offsets;
      for (size_t k = 0; k < K; ++k) offsets[k] = row * row_steps[k] + column * steps[k];
      for (int axis = last - 2; axis >= 0; --axis) {
        const int64_t index = outer % axes.shape[axis];
        outer /= axes.shape[axis];
        for (size_t k = 0; k < K; ++k) offsets[k] += index * axes.strides[k][axis];
      }
      if (column != 0 || end - position < row_length) {  // the rest of a row, or its beginning
        const int64_t count = std::min(row_length - column, end - position);
        inner(count, offsets, steps);
        position += count;
        continue;
      }
      for (; row < rows && end - position >= row_length; ++row, position += row_length) {
        inner(row_length, offsets, steps);
        for (size_t k = 0; k < K; ++k) offsets[k] += row_steps[k];
      }
    }
  });
}

/// y[i] = fn(x[i]); y is contiguous.
template <class T, class R, class Fn>
void map(const Tensor& y, const Tensor& x, Fn fn) {
  R* const out = y.data<R>();
  const T* const in = x.data<T>();
  strided_loop<2>(y.shape(), {y.strides(), broadcast_strides(x, y.shape())},
                  [=](int64_t count, const std::array<int64_t, 2>& offset, const std::array<int64_t, 2>& step) {
                    R* __restrict yp = out + offset[0];
                    const T* xp = in + offset[1];
                    if (step[0] == 1 && step[1] == 1) {
#pragma omp simd
                      for (int64_t i = 0; i < count; ++i) yp[i] = fn(xp[i]);
                    } else if (step[1] == 0) {
                      const R value = fn(*xp);
                      for (int64_t i = 0; i < count; ++i) yp[i * step[0]] = value;
                    } else {
                      for (int64_t i = 0; i < count; ++i) yp[i * step[0]] = fn(xp[i * step[1]]);
                    }
                  });
}

/// y[i] = fn(a[i], b[i]) where a and b broadcast to y.
template <class T, class R, class Fn>
void map(const Tensor& y, const Tensor& a, const Tensor& b, Fn fn) {
  R* const out = y.data<R>();
  const T* const in_a = a.data<T>();
  const T* const in_b = b.data<T>();
  strided_loop<3>(y.shape(), {y.strides(), broadcast_strides(a, y.shape()), broadcast_strides(b, y.shape())},
                  [=](int64_t count, const std::array<int64_t, 3>& offset, const std::array<int64_t, 3>& step) {
                    R* __restrict yp = out + offset[0];
                    const T* ap = in_a + offset[1];
                    const T* bp = in_b + offset[2];
                    if (step[0] == 1 && step[1] == 1 && step[2] == 1) {
#pragma omp simd
                      for (int64_t i = 0; i < count; ++i) yp[i] = fn(ap[i], bp[i]);
                    } else if (step[0] == 1 && step[1] == 1 && step[2] == 0) {
                      const T value = *bp;
#pragma omp simd
                      for (int64_t i = 0; i < count; ++i) yp[i] = fn(ap[i], value);
                    } else if (step[0] == 1 && step[1] == 0 && step[2] == 1) {
                      const T value = *ap;
#pragma omp simd
                      for (int64_t i = 0; i < count; ++i) yp[i] = fn(value, bp[i]);
                    } else {
                      for (int64_t i = 0; i < count; ++i) yp[i * step[0]] = fn(ap[i * step[1]], bp[i * step[2]]);
                    }
                  });
}

}  // namespace camo::detail
