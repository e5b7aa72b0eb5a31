#include "ops/detail/separable.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "core/parallel.h"
#include "ops/detail/in_f32.h"
#ifdef CAMO_WITH_CUDA
#include "ops/cuda/separable.h"
#endif

namespace camo::detail {

void AxisTaps::add(int64_t input, double tap_weight) {
  index.push_back(input);
  weight.push_back(tap_weight);
}

AxisTaps AxisTaps::transposed() const {
  AxisTaps result(outputs());
  std::vector<int64_t> counts(static_cast<size_t>(inputs) + 1);
  for (int64_t input : index) ++counts[static_cast<size_t>(input) + 1];
  std::partial_sum(counts.begin(), counts.end(), counts.begin());
  result.begin = counts;
  result.index.resize(index.size());
  result.weight.resize(weight.size());
  for (int64_t output = 0; output < outputs(); ++output) {
    for (int64_t k = begin[static_cast<size_t>(output)]; k < begin[static_cast<size_t>(output) + 1]; ++k) {
      const auto slot = static_cast<size_t>(counts[static_cast<size_t>(index[static_cast<size_t>(k)])]++);
      result.index[slot] = output;
      result.weight[slot] = weight[static_cast<size_t>(k)];
    }
  }
  return result;
}

AxisTaps bilinear_taps(int64_t inputs, int64_t outputs) {
  AxisTaps taps(inputs);
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  for (int64_t i = 0; i < outputs; ++i) {
    const double position = std::max((static_cast<double>(i) + 0.5) * scale - 0.5, 0.0);
    const int64_t low = std::min(static_cast<int64_t>(position), inputs - 1);
    const double fraction = position - static_cast<double>(low);
    if (low + 1 < inputs && fraction > 0) {
      taps.add(low, 1 - fraction);
      taps.add(low + 1, fraction);
    } else {
      taps.add(low, 1);
    }
    taps.end_output();
  }
  return taps;
}

AxisTaps pool_taps(int64_t inputs, int64_t kernel, int64_t stride, int64_t padding) {
  AxisTaps taps(inputs);
  const int64_t outputs = (inputs + 2 * padding - kernel) / stride + 1;
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t first = i * stride - padding;
    for (int64_t k = std::max<int64_t>(first, 0); k < std::min(first + kernel, inputs); ++k) {
      taps.add(k, 1.0 / static_cast<double>(kernel));
    }
    taps.end_output();
  }
  return taps;
}

AxisTaps adaptive_taps(int64_t inputs, int64_t outputs) {
  AxisTaps taps(inputs);
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t first = i * inputs / outputs, last = ((i + 1) * inputs + outputs - 1) / outputs;
    for (int64_t k = first; k < last; ++k) taps.add(k, 1.0 / static_cast<double>(last - first));
    taps.end_output();
  }
  return taps;
}

namespace {

// The taps of one output: `count` of them.
template <class T>
struct Taps {
  int64_t count;
  const int64_t* index;
  const T* weight;
};

// AxisTaps with weights of the element type.
template <class T>
class TypedTaps {
 public:
  explicit TypedTaps(const AxisTaps& taps) : taps_(taps), weight_(taps.weight.begin(), taps.weight.end()) {}
  Taps<T> operator[](int64_t output) const {
    const int64_t first = taps_.begin[static_cast<size_t>(output)];
    return {taps_.begin[static_cast<size_t>(output) + 1] - first, taps_.index.data() + first, weight_.data() + first};
  }

 private:
  const AxisTaps& taps_;
  std::vector<T> weight_;
};

// to[0 .. n) = sum over taps of weight * from[index * step + (0 .. n)]. Up to four taps a pass over `to`.
template <class T>
inline void weighted_sum(const Taps<T>& taps, const T* __restrict from, int64_t step, int64_t n, T* __restrict to) {
  const auto source = [&](int64_t k) { return from + taps.index[k] * step; };
  int64_t k = 0;
  if (taps.count == 0) {
    std::fill_n(to, n, T(0));
  } else if (taps.count == 1) {
    const T* a = source(0);
    const T wa = taps.weight[0];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = wa * a[i];
    k = 1;
  } else if (taps.count == 2) {
    const T *a = source(0), *b = source(1);
    const T wa = taps.weight[0], wb = taps.weight[1];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = wa * a[i] + wb * b[i];
    k = 2;
  } else {
    const T *a = source(0), *b = source(1), *c = source(2);
    const T wa = taps.weight[0], wb = taps.weight[1], wc = taps.weight[2];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = wa * a[i] + wb * b[i] + wc * c[i];
    k = 3;
  }
  for (; k + 4 <= taps.count; k += 4) {
    const T *a = source(k), *b = source(k + 1), *c = source(k + 2), *d = source(k + 3);
    const T wa = taps.weight[k], wb = taps.weight[k + 1], wc = taps.weight[k + 2], wd = taps.weight[k + 3];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  }
  for (; k < taps.count; ++k) {
    const T* a = source(k);
    const T wa = taps.weight[k];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] += wa * a[i];
  }
}

// The columns of one row with one channel: no inner loop over channels.
template <class T>
void single_channel_row(const TypedTaps<T>& columns, int64_t outputs, const T* from, T* to) {
  for (int64_t i = 0; i < outputs; ++i) {
    const Taps<T> taps = columns[i];
    T sum = 0;
    for (int64_t k = 0; k < taps.count; ++k) sum += taps.weight[k] * from[taps.index[k]];
    to[i] = sum;
  }
}

template <class T>
void map_rows_and_columns(const T* x, T* y, int64_t images, int64_t channels, const AxisTaps& row_taps,
                          const AxisTaps& column_taps) {
  const TypedTaps<T> rows(row_taps), columns(column_taps);
  const int64_t row_in = column_taps.inputs * channels, row_out = column_taps.outputs() * channels;
  const int64_t grain = 1 + 16384 / std::max<int64_t>(1, row_in + row_out);
  parallel_for(images * row_taps.outputs(), grain, [&](int64_t begin, int64_t end) {
    const auto blended = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(row_in));  // [inputs, channels]
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / row_taps.outputs();
      const T* source = x + image * row_taps.inputs * row_in;
      const Taps<T> taps = rows[row % row_taps.outputs()];
      const T* line = blended.get();
      if (taps.count == 1 && taps.weight[0] == T(1)) line = source + taps.index[0] * row_in;
      else weighted_sum(taps, source, row_in, row_in, blended.get());
      T* target = y + row * row_out;
      if (channels == 1) {
        single_channel_row(columns, column_taps.outputs(), line, target);
        continue;
      }
      for (int64_t i = 0; i < column_taps.outputs(); ++i) {
        weighted_sum(columns[i], line, channels, channels, target + i * channels);
      }
    }
  });
}

}  // namespace

Tensor separable_map(const Tensor& x, const AxisTaps& rows, const AxisTaps& columns, const char* op,
                     const Tensor& sum) {
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda()) return cuda::separable_map(x, rows, columns, op, sum);
#endif
  if (sum.defined()) {
    add_into(sum, separable_map(x, rows, columns, op));
    return sum;
  }
  if (needs_f32(x)) return rounded_to(separable_map(in_f32(x), rows, columns, op), x.dtype());
  const int64_t images = x.size(0), channels = x.size(3);
  Tensor y = empty({images, rows.outputs(), columns.outputs(), channels}, x.dtype(), cpu);
  dispatch_floating(x.dtype(), op, [&]<class T>() {
    if (y.numel() > 0) map_rows_and_columns(x.data<T>(), y.data<T>(), images, channels, rows, columns);
  });
  return y;
}

}  // namespace camo::detail
