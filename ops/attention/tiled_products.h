// What tiled attention on the CPU computes with: blocks of scores [rows][kLanes], in whole vector registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

namespace camo::flash {

inline constexpr int kVectors = 4;        // registers side by side: 4 x 4 accumulators hide the latency of their sums
inline constexpr int64_t kStreamed = 64;  // rows of a tile
template <class T>
inline constexpr int64_t kLanes = kVectors * 64 / static_cast<int64_t>(sizeof(T));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(64), may_alias));
};

template <class T>
typename VectorOf<T>::type* vectors(T* data) {
  return reinterpret_cast<typename VectorOf<T>::type*>(data);
}

/// exp(x) for x <= 0 within 2 ulp, 0 below the smallest normal number, NaN for NaN; nothing useful above 0 by more than
/// rounding. x = n ln(2) + r: a polynomial in r, and n added to its exponent.
inline VectorOf<float>::type exp_nonpositive(VectorOf<float>::type x) {
  using Vector = VectorOf<float>::type;
  typedef uint32_t Bits __attribute__((vector_size(64)));
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number in the low bits
  const Vector shifted = x * 1.44269504f + kRound;
  const Vector n = shifted - kRound;
  const Vector r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vector p = 0.00138144626f * r + 0.00836878084f;
  p = p * r + 0.0416683927f;
  p = p * r + 0.166665196f;
  p = p * r + 0.49999994f;
  p = (p * r) * r + r + 1.0f;
  const Vector y = reinterpret_cast<Vector>(reinterpret_cast<Bits>(p) + (reinterpret_cast<Bits>(shifted) << 23));
  return x < -87.0f ? Vector{} : y;
}
inline VectorOf<double>::type exp_nonpositive(VectorOf<double>::type x) {
  using Vector = VectorOf<double>::type;
  typedef uint64_t Bits __attribute__((vector_size(64)));
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const Vector shifted = x * 1.4426950408889634 + kRound;
  const Vector n = shifted - kRound;
  const Vector r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6;
  Vector p = Vector{} + 1 / 6227020800.0;  // the Taylor series to r^13, whose rest is below 5e-18 for |r| <= ln(2) / 2
  for (const double c : {1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0,
                         1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 0.5}) {
    p = p * r + c;
  }
  p = (p * r) * r + r + 1.0;
  const Vector y = reinterpret_cast<Vector>(reinterpret_cast<Bits>(p) + (reinterpret_cast<Bits>(shifted) << 52));
  return x < -708.0 ? Vector{} : y;
}

/// Numbers aligned for whole vectors.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(::operator new (sizeof(T) * count, std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete (data_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

/// gcc would otherwise read x from memory again for each product, and loads would be the limit.
template <class Vector>
[[gnu::always_inline]] inline void keep_in_register([[maybe_unused]] Vector& x) {
#ifdef __AVX512F__
  asm("" : "+v"(x));
#endif
}

/// c[r][lane] = sum over k of a[r * row_step + k * depth_step] * b[k][lane], for kRows rows; plus c, and plus c times
/// factors[lane]. Sums of one call are added up apart from c: long sums then lose less.
enum class Into { nothing, sum, scaled_sum };
template <class T, int kRows, Into kInto>
void multiply_rows(const T* a, int64_t row_step, int64_t depth_step, int64_t depth, const T* b, T* c,
                   const T* factors) {
  using Vector = typename VectorOf<T>::type;
  Vector sum[kRows][kVectors], value[kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kVectors; ++u) sum[r][u] = Vector{};
  }
  Vector* to = vectors(c);
  const Vector* from = reinterpret_cast<const Vector*>(b);
  for (int64_t k = 0; k < depth; ++k, from += kVectors, a += depth_step) {
#pragma GCC unroll 4
    for (int u = 0; u < kVectors; ++u) {
      value[u] = from[u];
      keep_in_register(value[u]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T x = a[r * row_step];
#pragma GCC unroll 4
      for (int u = 0; u < kVectors; ++u) sum[r][u] += x * value[u];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kVectors; ++u) {
      Vector& total = to[r * kVectors + u];
      if constexpr (kInto == Into::nothing) total = sum[r][u];
      else if constexpr (kInto == Into::sum) total += sum[r][u];
      else total = total * reinterpret_cast<const Vector*>(factors)[u] + sum[r][u];
    }
  }
}
template <Into kInto, class T>
void multiply(const T* a, int64_t row_step, int64_t depth_step, int64_t rows, int64_t depth, const T* b, T* c,
              const T* factors = nullptr) {
  const auto some = [&]<int kRows>(int64_t r) {
    multiply_rows<T, kRows, kInto>(a + r * row_step, row_step, depth_step, depth, b, c + r * kLanes<T>, factors);
  };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) some.template operator()<4>(r);
  switch (rows - r) {
    case 3: return some.template operator()<3>(r);
    case 2: return some.template operator()<2>(r);
    case 1: return some.template operator()<1>(r);
    default: return;
  }
}
/// Rows that stream past: element (r, d) is data[r * step + d].
template <class T>
struct Tile {
  const T* data;
  int64_t step, rows, width;
};
/// scores[r][lane] = tile row r times lane.
template <class T>
void multiply_by_depth(const Tile<T>& tile, const T* lanes, T* scores) {
  multiply<Into::nothing>(tile.data, tile.step, 1, tile.rows, tile.width, lanes, scores);
}
/// sums[d][lane] += sum over the tile's rows of tile[r][d] * weights[r][lane].
template <class T>
void add_by_rows(const Tile<T>& tile, const T* weights, T* sums) {
  multiply<Into::sum>(tile.data, 1, tile.step, tile.width, tile.rows, weights, sums);
}
/// The same with sums[d][lane] times factors[lane] first.
template <class T>
void add_by_rows_scaled(const Tile<T>& tile, const T* weights, const T* factors, T* sums) {
  multiply<Into::scaled_sum>(tile.data, 1, tile.step, tile.width, tile.rows, weights, sums, factors);
}

/// Columns of a row that is to be read in whole vectors.
template <class T>
constexpr int64_t padded_width(int64_t width) {
  constexpr int64_t kVector = 64 / static_cast<int64_t>(sizeof(T));
  return (width + kVector - 1) / kVector * kVector;
}
/// sums[r][0, kWide vectors) += sum over lanes of weights[r][lane] * lane_rows[lane][...], for kRows rows.
template <class T, int kRows, int kWide>
void multiply_lanes(const T* weights, int64_t lanes, const T* lane_rows, int64_t pitch, T* sums) {
  using Vector = typename VectorOf<T>::type;
  Vector sum[kRows][kWide], value[kWide];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kWide; ++u) sum[r][u] = Vector{};
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const Vector* from = reinterpret_cast<const Vector*>(lane_rows + lane * pitch);
#pragma GCC unroll 4
    for (int u = 0; u < kWide; ++u) value[u] = from[u];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T x = weights[r * kLanes<T> + lane];
#pragma GCC unroll 4
      for (int u = 0; u < kWide; ++u) sum[r][u] += x * value[u];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    Vector* to = vectors(sums + r * pitch);
#pragma GCC unroll 4
    for (int u = 0; u < kWide; ++u) to[u] += sum[r][u];
  }
}
/// sums[r][d] += sum over lanes of weights[r][lane] * lane_rows[lane][d]. Rows of sums and lane_rows have padded_width.
template <class T>
void add_by_lanes(const T* weights, int64_t rows, int64_t lanes, const T* lane_rows, int64_t width, T* sums) {
  constexpr int64_t kVector = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t pitch = padded_width<T>(width);
  int64_t r = 0;
  const auto columns = [&]<int kRows, int kWide>(int64_t d) {
    multiply_lanes<T, kRows, kWide>(weights + r * kLanes<T>, lanes, lane_rows + d, pitch, sums + r * pitch + d);
  };
  // Narrow rows come by the eight: fewer sums side by side would wait for each other.
  for (; pitch <= 2 * kVector && r + 8 <= rows; r += 8) {
    if (pitch == kVector) columns.template operator()<8, 1>(0);
    else columns.template operator()<8, 2>(0);
  }
  const auto all_columns = [&]<int kRows>() {
    for (int64_t d = 0; d < pitch; d += 4 * kVector) {
      switch (std::min<int64_t>(4, (pitch - d) / kVector)) {
        case 4: columns.template operator()<kRows, 4>(d); break;
        case 3: columns.template operator()<kRows, 3>(d); break;
        case 2: columns.template operator()<kRows, 2>(d); break;
        default: columns.template operator()<kRows, 1>(d);
      }
    }
  };
  for (; r + 4 <= rows; r += 4) all_columns.template operator()<4>();
  for (; r < rows; ++r) all_columns.template operator()<1>();
}

}  // namespace camo::flash
