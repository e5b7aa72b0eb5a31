// dweight[o, ky, kx, c] = sum over pixels of dy[pixel, o] * x[pixel shifted by the tap, c]: outer products of two short
// rows. A block of kOutputs x kVectors * 16 sums stays in registers over some rows of pixels, few enough that both maps
// of these rows stay in the L2 cache while all blocks go over them; what bounds it are the products. The rows are cut
// into kParts, each with sums of its own, which are added in order: a number that does not depend on the threads, and
// that keeps the rounding errors of long sums small.
#include "ops/detail/conv_filter.h"

#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace camo::detail {

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kParts = 8;
constexpr int64_t kCachedBytes = 512 << 10;  // of both maps

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

void load(const float* from, Vector& value) { std::memcpy(&value, from, sizeof value); }

struct Rows {
  int64_t begin, end;  // of all images' output rows, one after the other
};

/// sums[o0 + i, ky, kx, c0 ...] += the products of these rows.
template <int kOutputs, int kVectors>
void add_block(const ConvProblem& p, const float* x, const float* dy, Rows rows, int64_t ky, int64_t kx, int64_t o0,
               int64_t c0, float* sums) {
  Vector sum[kOutputs][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kOutputs; ++i) {
#pragma GCC unroll 8
    for (int u = 0; u < kVectors; ++u) sum[i][u] = Vector{};
  }
  const TapRange columns(kx, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t iy = row % p.oh * p.stride_h - p.padding_h + ky * p.dilation_h;
    if (iy < 0 || iy >= p.h) continue;
    const int64_t ix = columns.begin * p.stride_w - p.padding_w + kx * p.dilation_w;
    const float* from = x + ((row / p.oh * p.h + iy) * p.w + ix) * p.c + c0;
    const float* gradient = dy + (row * p.ow + columns.begin) * p.o + o0;
    for (int64_t ox = columns.begin; ox < columns.end; ++ox, from += p.stride_w * p.c, gradient += p.o) {
      Vector value[kVectors];
#pragma GCC unroll 8
      for (int u = 0; u < kVectors; ++u) load(from + u * kLanes, value[u]);
#pragma GCC unroll 8
      for (int i = 0; i < kOutputs; ++i) {
        const float g = gradient[i];
#pragma GCC unroll 8
        for (int u = 0; u < kVectors; ++u) sum[i][u] += g * value[u];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kOutputs; ++i) {
    float* to = sums + (((o0 + i) * p.kh + ky) * p.kw + kx) * p.c + c0;
#pragma GCC unroll 8
    for (int u = 0; u < kVectors; ++u) {
      Vector total;
      load(to + u * kLanes, total);
      total += sum[i][u];
      std::memcpy(to + u * kLanes, &total, sizeof total);
    }
  }
}

/// All blocks, with kOutputs as long as there are so many outputs left.
template <int kOutputs, int kVectors>
void add_rows(const ConvProblem& p, const float* x, const float* dy, Rows rows, float* sums) {
  int64_t o = 0;
  const auto cover = [&]<int kCount>() {
    for (; o + kCount <= p.o; o += kCount) {
      for (int64_t ky = 0; ky < p.kh; ++ky) {
        for (int64_t kx = 0; kx < p.kw; ++kx) {
          for (int64_t c = 0; c < p.c; c += kVectors * kLanes) {
            add_block<kCount, kVectors>(p, x, dy, rows, ky, kx, o, c, sums);
          }
        }
      }
    }
  };
  cover.template operator()<kOutputs>();
  cover.template operator()<2>();
  cover.template operator()<1>();
}

}  // namespace

bool has_conv_filter_gradient(const ConvProblem& p) {
#ifndef __AVX512F__
  return false;  // 25 sums of 16 numbers do not fit into narrower registers
#endif
  constexpr int64_t kPixels = 8192, kWeight = int64_t{1} << 18;
  const int64_t vectors = p.c / kLanes;
  return p.groups == 1 && p.c % kLanes == 0 && (vectors % 4 == 0 || vectors % 5 == 0) && p.n * p.oh * p.ow >= kPixels &&
         p.kh * p.kw > 1 && p.weight_size() <= kWeight;
}

void conv_filter_gradient(const ConvProblem& p, const float* x, const float* dy, float* dweight) {
  const int64_t rows = p.n * p.oh, size = p.weight_size(), parts = std::min(rows, kParts);
  const int64_t row_bytes = (p.w * p.c * p.stride_h + p.ow * p.o) * static_cast<int64_t>(sizeof(float));
  const int64_t step = std::max<int64_t>(1, kCachedBytes / row_bytes);
  std::vector<float> sums(static_cast<size_t>(parts * size));
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = rows * (part + 1) / parts;
      for (int64_t row = rows * part / parts; row < last; row += step) {
        const Rows some{row, std::min(last, row + step)};
        // 24 and 25 sums: with what they are made of, the 32 registers.
        if (p.c / kLanes % 4 == 0) add_rows<6, 4>(p, x, dy, some, sums.data() + part * size);
        else add_rows<5, 5>(p, x, dy, some, sums.data() + part * size);
      }
    }
  });
  parallel_for(size, 1 << 14, [&](int64_t begin, int64_t end) {
    std::copy(sums.data() + begin, sums.data() + end, dweight + begin);
    for (int64_t part = 1; part < parts; ++part) {
      const float* from = sums.data() + part * size;
      for (int64_t i = begin; i < end; ++i) dweight[i] += from[i];
    }
  });
}

}  // namespace camo::detail
