// The numbers that describe one two-dimensional convolution.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace camo::detail {

/// x [n, h, w, c], weight [o, kh, kw, c / groups] -> y [n, oh, ow, o]. Vertical numbers end in _h, horizontal in _w.
struct ConvProblem {
  int64_t n, h, w, c;
  int64_t o, kh, kw;
  int64_t oh, ow;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
  int64_t groups;

  int64_t inputs_per_group() const { return c / groups; }
  int64_t outputs_per_group() const { return o / groups; }
  int64_t weight_size() const { return o * kh * kw * inputs_per_group(); }
  /// y is the matrix product of x's pixels and the weight.
  bool is_pointwise() const {
    return kh == 1 && kw == 1 && groups == 1 && stride_h == 1 && stride_w == 1 && padding_h == 0 && padding_w == 0;
  }
  friend bool operator==(const ConvProblem&, const ConvProblem&) = default;
};

/// The range [begin, end) of output positions whose input position o * stride - padding + tap * dilation is inside
/// [0, inputs).
struct TapRange {
  int64_t begin, end;
  TapRange(int64_t tap, int64_t inputs, int64_t outputs, int64_t stride, int64_t padding, int64_t dilation) {
    const int64_t shift = tap * dilation - padding;  // input position = o * stride + shift
    begin = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
    end = inputs - shift <= 0 ? 0 : (inputs - shift - 1) / stride + 1;
    end = std::clamp<int64_t>(end, 0, outputs);
    begin = std::min(begin, end);
  }
};

}  // namespace camo::detail
