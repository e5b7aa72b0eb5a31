// Linear maps of [N, H, W, C] that act on rows and columns separately: resizing, average pools, and their transposes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace camo::detail {

/// A sparse matrix along one axis: output i is the sum of weight[k] * input[index[k]], k in [begin[i], begin[i + 1]).
struct AxisTaps {
  int64_t inputs = 0;
  std::vector<int64_t> begin{0};
  std::vector<int64_t> index;
  std::vector<double> weight;

  explicit AxisTaps(int64_t input_count) : inputs(input_count) {}
  int64_t outputs() const { return static_cast<int64_t>(begin.size()) - 1; }
  /// Adds a tap to the output being built.
  void add(int64_t input, double tap_weight);
  /// Ends the output being built.
  void end_output() { begin.push_back(static_cast<int64_t>(index.size())); }
  /// The taps of the transposed matrix: the gradient of this map.
  AxisTaps transposed() const;
};

/// Half-pixel bilinear interpolation: position (i + 0.5) * inputs / outputs - 0.5, kept inside.
AxisTaps bilinear_taps(int64_t inputs, int64_t outputs);
/// Means of `kernel` neighbours; padding counts as zeros.
AxisTaps pool_taps(int64_t inputs, int64_t kernel, int64_t stride, int64_t padding);
/// Means of the windows floor(i * inputs / outputs) .. ceil((i + 1) * inputs / outputs).
AxisTaps adaptive_taps(int64_t inputs, int64_t outputs);

/// x [N, H, W, C] (contiguous and floating) -> [N, rows.outputs(), columns.outputs(), C], added to `sum` where that is
/// defined. `op` names the caller in errors.
Tensor separable_map(const Tensor& x, const AxisTaps& rows, const AxisTaps& columns, const char* op,
                     const Tensor& sum = {});

}  // namespace camo::detail
