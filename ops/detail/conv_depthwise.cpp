#include "ops/detail/conv_depthwise.h"

#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/parallel.h"

namespace camo::detail {

namespace {

// L elements of T as one value that the compiler keeps in registers.
template <class T, int L>
struct Lanes {
  typedef T Type __attribute__((vector_size(L * sizeof(T))));
  static Type load(const T* from) {
    Type value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  static void store(T* to, Type value) { std::memcpy(to, &value, sizeof value); }
};

// Channels a block: a vector register full, or less for small maps.
template <class T>
constexpr int kWide = 64 / sizeof(T);
template <class T>
int block_lanes(int64_t channels) {
  return channels >= kWide<T> ? kWide<T> : channels >= 4 ? 4 : 1;
}

// fn.template operator()<L>() with L = block_lanes.
template <class T, class Fn>
void with_lanes(int64_t channels, Fn&& fn) {
  const int lanes = block_lanes<T>(channels);
  if (lanes == kWide<T>) fn.template operator()<kWide<T>>();
  else if (lanes == 4) fn.template operator()<4>();
  else fn.template operator()<1>();
}

// z[ow, c] = sum over taps x[...] * weight[ky, kx, c] for one row: `rows[ky]` is the input row of tap ky or null.
// P neighbouring pixels share each load of the weight.
template <class T, int L, int P>
void row_block(const ConvProblem& p, const T* const* rows, const T* weight, int64_t c0, int64_t ox, bool inside, T* z) {
  using V = Lanes<T, L>;
  typename V::Type sum[P] = {};
  for (int64_t ky = 0; ky < p.kh; ++ky) {
    if (!rows[ky]) continue;
    for (int64_t kx = 0; kx < p.kw; ++kx) {
      const auto w = V::load(weight + (ky * p.kw + kx) * p.c + c0);
      const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
      const T* source = rows[ky] + ix * p.c + c0;
      if (inside) {
        for (int i = 0; i < P; ++i) sum[i] += w * V::load(source + i * p.stride_w * p.c);
      } else {
        for (int i = 0; i < P; ++i) {
          const int64_t column = ix + i * p.stride_w;
          if (column >= 0 && column < p.w) sum[i] += w * V::load(source + i * p.stride_w * p.c);
        }
      }
    }
  }
  for (int i = 0; i < P; ++i) V::store(z + (ox + i) * p.c + c0, sum[i]);
}

template <class T>
void depthwise_row(const ConvProblem& p, const T* const* rows, const T* weight, T* z) {
  constexpr int kPixels = 4;
  // Output pixels [first, last) read no padding.
  const TapRange left(0, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
  const TapRange right(p.kw - 1, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
  with_lanes<T>(p.c, [&]<int L>() {
    for (int64_t block = 0; block < p.c; block += L) {
      const int64_t c0 = std::min(block, p.c - L);  // the last block overlaps the one before, with equal results
      int64_t ox = 0;
      for (; ox + kPixels <= p.ow; ox += kPixels) {
        const bool inside = ox >= left.begin && ox + kPixels <= right.end;
        row_block<T, L, kPixels>(p, rows, weight, c0, ox, inside, z);
      }
      for (; ox < p.ow; ++ox) row_block<T, L, 1>(p, rows, weight, c0, ox, ox >= left.begin && ox < right.end, z);
    }
  });
}

// Calls row(index of the row in the result, z) for every row of z [n, oh, ow, c].
template <class T, class Fn>
void depthwise_rows(const ConvProblem& p, const T* x, const T* weight, T* z_all, Fn&& finish_row) {
  const int64_t work = std::max<int64_t>(1, p.ow * p.c * p.kh * p.kw);
  parallel_for(p.n * p.oh, 1 + 32768 / work, [&](int64_t begin, int64_t end) {
    std::vector<const T*> rows(static_cast<size_t>(p.kh));
    std::vector<T> buffer(z_all ? 0 : static_cast<size_t>(p.ow * p.c));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / p.oh, oy = row % p.oh;
      for (int64_t ky = 0; ky < p.kh; ++ky) {
        const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
        rows[static_cast<size_t>(ky)] = iy >= 0 && iy < p.h ? x + (image * p.h + iy) * p.w * p.c : nullptr;
      }
      T* z = z_all ? z_all + row * p.ow * p.c : buffer.data();
      depthwise_row(p, rows.data(), weight, z);
      finish_row(row, z);
    }
  });
}

// weight [o, kh, kw, c / groups] -> [kh, kw, c], turned by 180 degrees on demand.
template <class T>
std::vector<T> channels_last_weight(const ConvProblem& p, const T* weight, bool turned) {
  const int64_t taps = p.kh * p.kw, inputs = p.inputs_per_group();
  std::vector<T> result(static_cast<size_t>(taps * p.c));
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t target = turned ? taps - 1 - tap : tap;
      for (int64_t i = 0; i < inputs; ++i) {
        result[static_cast<size_t>(target * p.c + g * inputs + i)] = weight[(g * taps + tap) * inputs + i];
      }
    }
  }
  return result;
}

// dy [pixels, o] -> [pixels, c]: each group's gradient once for each of its input channels.
template <class T>
std::unique_ptr<T[]> repeat_for_inputs(const ConvProblem& p, const T* dy) {
  const int64_t inputs = p.inputs_per_group(), pixels = p.n * p.oh * p.ow;
  if (inputs == 1) return nullptr;
  auto result = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(pixels * p.c));
  const auto repeat = [&](auto count) {
    parallel_for(pixels * p.o, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        for (int64_t i = 0; i < count; ++i) result[static_cast<size_t>(k * count + i)] = dy[k];
      }
    });
  };
  if (inputs == 4) repeat(std::integral_constant<int64_t, 4>{});
  else repeat(inputs);
  return result;
}

// dweight of K horizontal taps of one kernel row and L channels: the sums over all pixels stay in registers.
template <class T, int L, int K>
void weight_row_block(const ConvProblem& p, const T* x, const T* dy, int64_t ky, int64_t kx0, int64_t c0, T* sums) {
  using V = Lanes<T, L>;
  typename V::Type sum[K] = {};
  const TapRange vertical(ky, p.h, p.oh, p.stride_h, p.padding_h, p.dilation_h);
  const TapRange left(kx0, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
  const TapRange right(kx0 + K - 1, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
  const int64_t tap_step = p.dilation_w * p.c;
  for (int64_t image = 0; image < p.n; ++image) {
    for (int64_t oy = vertical.begin; oy < vertical.end; ++oy) {
      const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
      const T* dy_row = dy + (image * p.oh + oy) * p.ow * p.c + c0;
      const T* x_row = x + (image * p.h + iy) * p.w * p.c + c0;
      const auto edge = [&](int64_t begin, int64_t end) {
        for (int64_t ox = begin; ox < end; ++ox) {
          const auto d = V::load(dy_row + ox * p.c);
          const int64_t ix = ox * p.stride_w - p.padding_w + kx0 * p.dilation_w;
          for (int k = 0; k < K; ++k) {
            const int64_t column = ix + k * p.dilation_w;
            if (column >= 0 && column < p.w) sum[k] += d * V::load(x_row + column * p.c);
          }
        }
      };
      const int64_t inner_begin = std::min(left.begin, p.ow), inner_end = std::max(inner_begin, right.end);
      edge(0, inner_begin);
      for (int64_t ox = inner_begin; ox < inner_end; ++ox) {
        const auto d = V::load(dy_row + ox * p.c);
        const T* source = x_row + (ox * p.stride_w - p.padding_w + kx0 * p.dilation_w) * p.c;
        for (int k = 0; k < K; ++k) sum[k] += d * V::load(source + k * tap_step);
      }
      edge(inner_end, p.ow);
    }
  }
  for (int k = 0; k < K; ++k) V::store(sums + k * L, sum[k]);
}

}  // namespace

template <class T>
void depthwise_forward(const ConvProblem& p, const T* x, const T* weight, const T* bias, T* y) {
  const std::vector<T> w = channels_last_weight(p, weight, false);
  const int64_t inputs = p.inputs_per_group();
  depthwise_rows(p, x, w.data(), inputs == 1 ? y : nullptr, [&](int64_t row, T* z) {
    T* result = y + row * p.ow * p.o;
    for (int64_t ox = 0; ox < p.ow; ++ox, z += p.c, result += p.o) {
      if (inputs == 1) {
        if (!bias) continue;
        for (int64_t o = 0; o < p.o; ++o) result[o] += bias[o];
        continue;
      }
      for (int64_t o = 0; o < p.o; ++o) {
        T sum = bias ? bias[o] : T(0);
        for (int64_t i = 0; i < inputs; ++i) sum += z[o * inputs + i];
        result[o] = sum;
      }
    }
  });
}

template <class T>
void depthwise_backward_data(const ConvProblem& p, const T* dy, const T* weight, T* dx) {
  const std::vector<T> w = channels_last_weight(p, weight, true);
  const auto repeated = repeat_for_inputs(p, dy);
  // dx is the convolution of dy with the turned kernel: the maps change places.
  ConvProblem q = p;
  std::swap(q.h, q.oh);
  std::swap(q.w, q.ow);
  q.padding_h = p.dilation_h * (p.kh - 1) - p.padding_h;
  q.padding_w = p.dilation_w * (p.kw - 1) - p.padding_w;
  depthwise_rows(q, repeated ? repeated.get() : dy, w.data(), dx, [](int64_t, T*) {});
}

template <class T>
void depthwise_backward_weight(const ConvProblem& p, const T* x, const T* dy, T* dweight) {
  const auto repeated = repeat_for_inputs(p, dy);
  const T* gradient = repeated ? repeated.get() : dy;
  const int64_t inputs = p.inputs_per_group(), taps = p.kh * p.kw;
  const int64_t lanes = block_lanes<T>(p.c), blocks = (p.c + lanes - 1) / lanes;
  const int64_t work = std::max<int64_t>(1, p.n * p.oh * p.ow * p.kw * lanes);
  parallel_for(blocks * p.kh, 1 + 32768 / work, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t block = job / p.kh * lanes, ky = job % p.kh;
      const int64_t c0 = std::min(block, p.c - lanes);
      const auto run = [&]<int L, int K>(int64_t kx0) {
        T sums[K * L];
        weight_row_block<T, L, K>(p, x, gradient, ky, kx0, c0, sums);
        for (int k = 0; k < K; ++k) {
          for (int64_t c = block; c < c0 + L; ++c) {
            dweight[(c / inputs * taps + ky * p.kw + kx0 + k) * inputs + c % inputs] = sums[k * L + c - c0];
          }
        }
      };
      with_lanes<T>(p.c, [&]<int L>() {
        int64_t kx = 0;
        const auto cover = [&]<int K>() {
          for (; kx + K <= p.kw; kx += K) run.template operator()<L, K>(kx);
        };
        if (p.kw == 9) cover.template operator()<9>();
        if (p.kw == 7) cover.template operator()<7>();
        cover.template operator()<5>();
        cover.template operator()<3>();
        cover.template operator()<1>();
      });
    }
  });
}

template void depthwise_forward(const ConvProblem&, const float*, const float*, const float*, float*);
template void depthwise_forward(const ConvProblem&, const double*, const double*, const double*, double*);
template void depthwise_backward_data(const ConvProblem&, const float*, const float*, float*);
template void depthwise_backward_data(const ConvProblem&, const double*, const double*, double*);
template void depthwise_backward_weight(const ConvProblem&, const float*, const float*, float*);
template void depthwise_backward_weight(const ConvProblem&, const double*, const double*, double*);

}  // namespace camo::detail
