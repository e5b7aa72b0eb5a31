// Inputs of gradient cases: f64 tensors that are the same in every run.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/random.h"
#include "core/tensor.h"
#include "ops/elementwise.h"

namespace camo::gradient_cases {

/// Uniform in [low, high); other numbers for another stream.
inline Tensor draw(const Shape& shape, uint64_t stream = 0, double low = -1, double high = 1) {
  const RandomKey key{0x5eed, stream};
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = low + (high - low) * double{key.uniform(i)};
  return from_vector(values, shape);
}

/// In (-1, 1), no two alike and none near 0, for operations with kinks at ties and at 0. Fractional parts of multiples
/// of the golden ratio keep a distance of at least 0.38 / numel.
inline Tensor draw_distinct(const Shape& shape, double phase = 0) {
  constexpr double kGoldenRatio = 1.6180339887498949;
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    double whole;
    const double part = 2 * std::modf((static_cast<double>(i) + 1 + phase) * kGoldenRatio, &whole) - 1;
    values[i] = part + (part < 0 ? -0.05 : 0.05);
  }
  return from_vector(values, shape);
}

/// A copy of x with other strides: the axes lie in memory in reverse order, with gaps.
inline Tensor strided(const Tensor& x) {
  Shape strides = x.shape();
  int64_t step = 2;
  for (int i = 0; i < x.dims(); ++i) {
    strides[i] = step;
    step *= x.shape()[i] + 1;
  }
  const Tensor view = make_view(empty({step + 1}, x.dtype()), x.shape(), strides, 1);
  copy_into(view, x);
  return view;
}

/// Random rows with gaps between them: what a slice of a wider last axis looks like.
inline Tensor sliced(const Shape& shape, uint64_t stream = 0) {
  Shape wide = shape;
  wide[shape.size() - 1] += 3;
  return make_view(draw(wide, stream), shape, wide.contiguous_strides(), 2);
}

/// What a case needs besides its inputs, on the device of the input `x` and, if floating, in its dtype.
inline Tensor beside(const Tensor& x, const Tensor& constant) {
  return to(is_floating(constant.dtype()) ? to(constant, x.dtype()) : constant, x.device());
}

}  // namespace camo::gradient_cases
