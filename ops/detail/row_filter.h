// Filters on rows of channels-last maps.
#pragma once

#include <algorithm>
#include <cstdint>

namespace camo::detail {

/// out[w, c] += tap * in[w + shift, c] where w + shift lies in the row: zero padding.   out, in [W, C]
template <class T>
void add_shifted_row(const T* in, int64_t width, int64_t channels, int64_t shift, T tap, T* out) {
  const int64_t begin = std::max<int64_t>(0, -shift) * channels;
  const int64_t end = std::min(width, width - shift) * channels;
  const int64_t offset = shift * channels;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) out[i] += tap * in[i + offset];
}

}  // namespace camo::detail
