// How many columns the aligned pieces of a row take.
#pragma once

#include <cstdint>
#include <numeric>

namespace camo::flash {

/// 16-bit elements of 16 bytes.
inline constexpr int64_t kPiece = 8;

/// Columns of the aligned pieces of 16 bytes that hold a row of any of many heads of this width side by side, at most.
constexpr int64_t packed_window(int64_t width) {
  const int64_t furthest = kPiece - std::gcd(width, kPiece);  // from the piece's first column to the row's
  return (furthest + width + kPiece - 1) / kPiece * kPiece;
}

}  // namespace camo::flash
