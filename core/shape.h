// Shape: a short list of extents or strides, held inline.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "core/error.h"

namespace camo {

/// Up to eight extents (or strides, or axes) without heap memory; more throw. Positions in it are not checked.
class Shape {
 public:
  static constexpr int kMaxDims = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) : size_(static_cast<int>(dims.size())) {
    CAMO_CHECK(dims.size() <= kMaxDims, "shape: at most 8 dimensions; got ", dims.size());
    std::copy(dims.begin(), dims.end(), dims_.begin());
  }
  /// `count` times `value`.
  static Shape filled(int count, int64_t value) {
    Shape shape;
    for (int i = 0; i < count; ++i) shape.push_back(value);
    return shape;
  }

  int size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  int64_t back() const { return dims_[static_cast<size_t>(size_ - 1)]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + size_; }
  int64_t* begin() { return dims_.data(); }
  int64_t* end() { return dims_.data() + size_; }

  void push_back(int64_t dim) {
    CAMO_CHECK(size_ < kMaxDims, "shape: at most 8 dimensions");
    dims_[static_cast<size_t>(size_++)] = dim;
  }
  void erase(int i) {  // drops the entry at position i
    std::copy(begin() + i + 1, end(), begin() + i);
    --size_;
  }
  void insert(int i, int64_t dim) {  // dim gets position i
    push_back(dim);
    std::rotate(begin() + i, end() - 1, end());
  }

  /// Product of the extents; 1 for no dimensions.
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t dim : *this) count *= dim;
    return count;
  }
  /// Row-major strides in elements of a tensor with this shape; extents of 0 count as 1.
  Shape contiguous_strides() const {
    Shape strides = *this;
    int64_t step = 1;
    for (int i = size_ - 1; i >= 0; --i) {
      strides[i] = step;
      step *= std::max<int64_t>(1, dims_[static_cast<size_t>(i)]);
    }
    return strides;
  }
  std::string str() const { return concat_text(*this); }

  friend bool operator==(const Shape& a, const Shape& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int size_ = 0;
};

/// Axis counted from the front; negative axes count from the end. Throws naming `op` when out of range.
int normalize_axis(int64_t axis, int dims, const char* op);

/// NumPy broadcasting of two shapes. Throws naming `op` when they do not match.
Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op);

}  // namespace camo
