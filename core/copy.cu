// Raw copies, in-place sums and fills between tensors of any strides: target[i] (+)= source[i].
//
// Both tensors are walked as rows along their last axis after neighbouring axes that are contiguous in both were
// merged.
#include <cstring>

#include "core/parallel.h"
#include "core/tensor.h"

namespace camo {

namespace {

constexpr int64_t kGrain = 1 << 15;  // elements worth a thread

/// The axes of two equally shaped tensors, merged where both are contiguous; the last axis is the row.
struct Rows {
  Shape shape, target_strides, source_strides;

  Rows(const Tensor& target, const Tensor& source) {
    for (int i = 0; i < target.dims(); ++i) {
      if (target.shape()[i] == 1) continue;
      const int last = shape.size() - 1;
      const int64_t extent = target.shape()[i];
      if (last >= 0 && target_strides[last] == target.strides()[i] * extent &&
          source_strides[last] == source.strides()[i] * extent) {
        shape[last] *= extent;
        target_strides[last] = target.strides()[i];
        source_strides[last] = source.strides()[i];
      } else {
        shape.push_back(extent);
        target_strides.push_back(target.strides()[i]);
        source_strides.push_back(source.strides()[i]);
      }
    }
    if (shape.empty()) shape = target_strides = source_strides = {1};
  }

  /// Calls row(target offset, source offset) for each row, in parallel.
  template <class Fn>
  void for_each(Fn&& row) const {
    const int last = shape.size() - 1;
    const int64_t length = shape[last];
    if (shape.numel() == 0) return;
    parallel_for(shape.numel() / length, std::max<int64_t>(1, kGrain / length), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t rest = i, target = 0, source = 0;
        for (int axis = last - 1; axis >= 0; --axis) {
          const int64_t position = rest % shape[axis];
          rest /= shape[axis];
          target += position * target_strides[axis];
          source += position * source_strides[axis];
        }
        row(target, source);
      }
    });
  }
};

template <class T, class S>
void copy_row(T* target, int64_t target_stride, const S* source, int64_t source_stride, int64_t length) {
  if (target_stride == 1 && source_stride == 1) {
    if constexpr (std::is_same_v<T, S>) {
      std::memcpy(target, source, static_cast<size_t>(length) * sizeof(T));
    } else {
      for (int64_t i = 0; i < length; ++i) target[i] = convert<T>(source[i]);
    }
  } else {
    for (int64_t i = 0; i < length; ++i) target[i * target_stride] = convert<T>(source[i * source_stride]);
  }
}

/// One long row is cut into pieces, so that it too runs on all threads.
template <class Fn>
void for_pieces(int64_t length, Fn&& piece) {
  parallel_for(length, kGrain, [&](int64_t begin, int64_t end) { piece(begin, end - begin); });
}

}  // namespace

void copy_into(const Tensor& target, const Tensor& source) {
  CAMO_CHECK(target.shape() == source.shape(), "copy: shapes must be equal; got ", target.shape(), " and ",
             source.shape());
  const Rows rows(target, source);
  const int last = rows.shape.size() - 1;
  const int64_t length = rows.shape[last];
  const int64_t target_stride = rows.target_strides[last], source_stride = rows.source_strides[last];
  dispatch_all(target.dtype(), [&]<class T>() {
    dispatch_all(source.dtype(), [&]<class S>() {
      T* to = target.data<T>();
      const S* from = source.data<S>();
      if (last == 0) {
        for_pieces(length, [&](int64_t begin, int64_t count) {
          copy_row(to + begin * target_stride, target_stride, from + begin * source_stride, source_stride, count);
        });
      } else {
        rows.for_each([&](int64_t t, int64_t s) { copy_row(to + t, target_stride, from + s, source_stride, length); });
      }
    });
  });
  target.storage()->bump_version();
}

void add_into(const Tensor& target, const Tensor& source) {
  CAMO_CHECK(target.shape() == source.shape() && target.dtype() == source.dtype(),
             "add_into: shapes and dtypes must be equal; got ", target.shape(), " ", target.dtype(), " and ",
             source.shape(), " ", source.dtype());
  const Rows rows(target, source);
  const int last = rows.shape.size() - 1;
  const int64_t target_stride = rows.target_strides[last], source_stride = rows.source_strides[last];
  dispatch_floating(target.dtype(), "add_into", [&]<class T>() {
    T* to = target.data<T>();
    const T* from = source.data<T>();
    const auto add_row = [&](T* t, const T* s, int64_t count) {
      if (target_stride == 1 && source_stride == 1) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) t[i] += s[i];
      } else {
        for (int64_t i = 0; i < count; ++i) t[i * target_stride] += s[i * source_stride];
      }
    };
    if (last == 0) {
      for_pieces(rows.shape[0], [&](int64_t begin, int64_t count) {
        add_row(to + begin * target_stride, from + begin * source_stride, count);
      });
    } else {
      rows.for_each([&](int64_t t, int64_t s) { add_row(to + t, from + s, rows.shape[last]); });
    }
  });
  target.storage()->bump_version();
}

void fill(const Tensor& target, double value) {
  const Rows rows(target, target);
  const int last = rows.shape.size() - 1;
  const int64_t stride = rows.target_strides[last];
  dispatch_all(target.dtype(), [&]<class T>() {
    T* to = target.data<T>();
    const T element = convert<T>(value);
    const auto fill_row = [&](T* t, int64_t count) {
      if (stride == 1) std::fill_n(t, count, element);
      else
        for (int64_t i = 0; i < count; ++i) t[i * stride] = element;
    };
    if (last == 0)
      for_pieces(rows.shape[0], [&](int64_t begin, int64_t count) { fill_row(to + begin * stride, count); });
    else rows.for_each([&](int64_t t, int64_t) { fill_row(to + t, rows.shape[last]); });
  });
  target.storage()->bump_version();
}

}  // namespace camo
