// Loops that reduce the middle axis of [outer, reduced, inner] to [outer, inner], in blocks that do not depend on the
// number of threads.
//
// A reducer has Acc (the accumulator), identity() and combine(a, b). A source gives element i of the row-major input,
// so that products and squares are formed on the way.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/half.h"
#include "core/parallel.h"
#include "core/shape.h"

namespace camo::detail {

/// One pass: [outer, extent, inner] -> [outer, inner].
struct Pass {
  int64_t outer = 1, extent = 1, inner = 1;
};

/// The passes that reduce these axes of `shape`, at least one. No extent is 0.
inline std::vector<Pass> plan_passes(const Shape& shape, const std::array<bool, Shape::kMaxDims>& reduced) {
  Shape extents;  // of groups of neighbours, alternately kept and reduced
  std::vector<bool> is_reduced;
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] == 1) continue;
    const bool flag = reduced[static_cast<size_t>(i)];
    if (!extents.empty() && is_reduced.back() == flag) {
      extents[extents.size() - 1] *= shape[i];
    } else {
      extents.push_back(shape[i]);
      is_reduced.push_back(flag);
    }
  }
  std::vector<Pass> passes;
  for (int group = extents.size() - 1; group >= 0; --group) {
    if (!is_reduced[static_cast<size_t>(group)]) continue;
    Pass pass{.extent = extents[group]};
    for (int i = 0; i < group; ++i) pass.outer *= extents[i];
    for (int i = group + 1; i < extents.size(); ++i) pass.inner *= extents[i];
    passes.push_back(pass);
    extents[group] = 1;
  }
  if (passes.empty()) passes.push_back({1, 1, shape.numel()});
  return passes;
}

/// Floats are summed in double.
template <class T>
struct SumReducer {
  using Acc = std::conditional_t<std::is_integral_v<T>, int64_t, double>;
  CAMO_HOST_DEVICE static Acc identity() { return 0; }
  template <class A>
  CAMO_HOST_DEVICE static A combine(A a, A b) {
    return a + b;
  }
};

/// NaN wins.
template <class T>
struct MaxReducer {
  using Acc = T;
  CAMO_HOST_DEVICE static T identity() {
    if constexpr (std::is_integral_v<T>) return std::numeric_limits<T>::lowest();
    else return -std::numeric_limits<T>::infinity();
  }
  CAMO_HOST_DEVICE static T combine(T a, T b) { return b > a || b != b ? b : a; }
};

template <class T>
struct MinReducer {
  using Acc = T;
  CAMO_HOST_DEVICE static T identity() {
    if constexpr (std::is_integral_v<T>) return std::numeric_limits<T>::max();
    else return std::numeric_limits<T>::infinity();
  }
  CAMO_HOST_DEVICE static T combine(T a, T b) { return b < a || b != b ? b : a; }
};

template <class T>
struct Elements {
  const T* x;
  T operator()(int64_t i) const { return x[i]; }
};

template <class T>
struct Products {
  const T *a, *b;
  T operator()(int64_t i) const { return a[i] * b[i]; }
};

template <class T>
struct Squares {
  const T* x;
  double operator()(int64_t i) const { return static_cast<double>(x[i]) * static_cast<double>(x[i]); }
};

/// Combines elements from `begin` in whole steps of kLanes independent accumulators; returns where it stopped.
template <int64_t kLanes, class Reducer, class Source>
int64_t reduce_lanes(typename Reducer::Acc& result, Source source, int64_t begin, int64_t end) {
  using Acc = typename Reducer::Acc;
  std::array<Acc, kLanes> lanes;
  lanes.fill(Reducer::identity());
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[static_cast<size_t>(lane)] =
          Reducer::combine(lanes[static_cast<size_t>(lane)], static_cast<Acc>(source(i + lane)));
    }
  }
  for (Acc lane : lanes) result = Reducer::combine(result, lane);
  return i;
}

/// The reduction of elements [begin, end).
template <class Reducer, class Source>
typename Reducer::Acc reduce_run(Source source, int64_t begin, int64_t end) {
  using Acc = typename Reducer::Acc;
  Acc result = Reducer::identity();
  int64_t i = begin;
  if (end - begin >= 64) i = reduce_lanes<32, Reducer>(result, source, begin, end);
  else if (end - begin >= 16) i = reduce_lanes<8, Reducer>(result, source, begin, end);
  for (; i < end; ++i) result = Reducer::combine(result, static_cast<Acc>(source(i)));
  return result;
}

/// acc[c] = reduction over rows [row_begin, row_end) of source(base + row * inner + c). Four rows are combined in the
/// source's own precision before they reach the accumulators.
template <class Reducer, class Source>
void reduce_columns(typename Reducer::Acc* __restrict acc, Source source, int64_t base, int64_t row_begin,
                    int64_t row_end, int64_t inner, int64_t columns) {
  using Acc = typename Reducer::Acc;
  std::fill(acc, acc + columns, Reducer::identity());
  int64_t row = row_begin;
  for (; row + 4 <= row_end; row += 4) {
    const int64_t at = base + row * inner;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const auto first = Reducer::combine(source(at + c), source(at + inner + c));
      const auto second = Reducer::combine(source(at + 2 * inner + c), source(at + 3 * inner + c));
      acc[c] = Reducer::combine(acc[c], static_cast<Acc>(Reducer::combine(first, second)));
    }
  }
  for (; row < row_end; ++row) {
    const int64_t at = base + row * inner;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) acc[c] = Reducer::combine(acc[c], static_cast<Acc>(source(at + c)));
  }
}

/// y[o, c] = reduction over r of source([o, r, c]).
template <class Reducer, class T, class Source>
void reduce_middle(T* y, Source source, int64_t outer, int64_t reduced, int64_t inner) {
  using Acc = typename Reducer::Acc;
  constexpr int64_t kBlock = 32768;   // elements worth a thread
  constexpr int64_t kColumns = 1024;  // accumulators that stay in the first-level cache
  const int64_t block = std::max<int64_t>(64, kBlock / std::max<int64_t>(inner, 1));  // rows of one task
  const int64_t blocks = std::max<int64_t>(1, (reduced + block - 1) / block);
  const int64_t strips = (inner + kColumns - 1) / kColumns;
  const int64_t elements_per_task = std::min(block, reduced) * std::min(inner, kColumns);
  std::vector<Acc> partial(static_cast<size_t>(blocks > 1 ? outer * blocks * inner : 0));
  const int64_t grain = std::max<int64_t>(1, kBlock / std::max<int64_t>(1, elements_per_task));
  parallel_for(outer * blocks * strips, grain, [&](int64_t begin, int64_t end) {
    std::array<Acc, kColumns> acc;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task % strips * kColumns, columns = std::min(kColumns, inner - column);
      const int64_t o = task / strips / blocks, b = task / strips % blocks;
      const int64_t first_row = b * block, last_row = std::min(reduced, first_row + block);
      const int64_t base = o * reduced * inner;
      if (inner == 1) {
        acc[0] = reduce_run<Reducer>(source, base + first_row, base + last_row);
      } else {
        reduce_columns<Reducer>(acc.data(), source, base + column, first_row, last_row, inner, columns);
      }
      if (blocks > 1) std::copy_n(acc.begin(), columns, partial.begin() + ((o * blocks + b) * inner + column));
      else
        std::transform(acc.begin(), acc.begin() + columns, y + o * inner + column,
                       [](Acc a) { return static_cast<T>(a); });
    }
  });
  if (blocks == 1) return;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t c = 0; c < inner; ++c) {
      Acc result = Reducer::identity();
      for (int64_t b = 0; b < blocks; ++b) {
        result = Reducer::combine(result, partial[static_cast<size_t>((o * blocks + b) * inner + c)]);
      }
      y[o * inner + c] = static_cast<T>(result);
    }
  }
}

}  // namespace camo::detail
