// y = x * weight (correlation), and dx = dy * weight turned by 180 degrees: the same kernel.
#include "ops/cuda/conv_depthwise.cuh"
#include "ops/cuda/conv_depthwise.h"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

/// Sizes of a launch; `in` is what is read (x, or dy), `out` what is written.
struct DepthwiseLaunch {
  int in_h, in_w, out_h, out_w;
  int pad_h, pad_w;
  int packs, lanes;  // packs of channels in all, and in a block's tile
  int pitch;         // packs from tap to tap in shared memory: odd, against bank conflicts
  int64_t items;     // lanes * images * tiles of a row * rows
  FastDivide by_lanes, by_rows, by_tiles;
  bool flip;
};

/// V output channels, or with G inputs a group and `expand` (dx of a grouped problem) V input channels, a pack.
/// Grid: (persistent over items, tile of channels). Shared memory: the tile's taps, [K * K][pitch] packs of V * G.
template <class T, int K, int V, int G, bool expand>
__global__ void __launch_bounds__(kBlock, 2)
    depthwise_kernel(const T* __restrict__ in, const T* __restrict__ weight, const T* __restrict__ bias,
                     T* __restrict__ out, DepthwiseLaunch s) {
  using A = Accumulator<T>;
  constexpr int kTaps = K * K, kWide = V * G;
  constexpr int kIn = expand ? V : kWide, kOut = expand ? kWide : V;
  constexpr int kUnroll = K <= 5 ? K : 3;
  extern __shared__ __align__(16) unsigned char shared[];
  A* taps = reinterpret_cast<A*>(shared);

  const int first = blockIdx.y * s.lanes, own_packs = min(s.lanes, s.packs - first);
  for (int i = threadIdx.x; i < own_packs * kWide * kTaps; i += kBlock) {  // weight: [outputs][taps][G]
    const int o = i / (kTaps * G), rest = i % (kTaps * G), tap = rest / G, g = rest % G;
    taps[(s.flip ? kTaps - 1 - tap : tap) * (s.pitch * kWide) + o * G + g] =
        convert<A>(weight[int64_t{first} * kWide * kTaps + i]);
  }
  __syncthreads();

  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t item = int64_t{blockIdx.x} * kBlock + threadIdx.x; item < s.items; item += step) {
    uint32_t rest = s.by_lanes.divide(static_cast<uint32_t>(item));
    const int lane = static_cast<int>(static_cast<uint32_t>(item) - rest * s.by_lanes.divisor);
    if (lane >= own_packs) continue;
    uint32_t next = s.by_rows.divide(rest);
    const int oy = static_cast<int>(rest - next * s.by_rows.divisor);
    const auto image = static_cast<int>(s.by_tiles.divide(next));
    const int ox = static_cast<int>(next - image * s.by_tiles.divisor) * kTile;
    const int pack = first + lane;

    A sums[kTile][kOut];
#pragma unroll
    for (int v = 0; v < kOut; ++v) {
      const A start = bias != nullptr ? convert<A>(bias[pack * kOut + v]) : A(0);
#pragma unroll
      for (int t = 0; t < kTile; ++t) sums[t][v] = start;
    }
#pragma unroll kUnroll
    for (int ky = 0; ky < K; ++ky) {
      const int iy = oy + ky - s.pad_h;
      if (iy < 0 || iy >= s.in_h) continue;
      const T* row = in + (int64_t{image} * s.in_h + iy) * s.in_w * (s.packs * kIn) + pack * kIn;
      A window[kTile + K - 1][kIn];
#pragma unroll
      for (int j = 0; j < kTile + K - 1; ++j) {
        const int ix = ox + j - s.pad_w;
        if (ix >= 0 && ix < s.in_w) {
          load_values<kIn>(row + int64_t{ix} * (s.packs * kIn), window[j]);
        } else {
#pragma unroll
          for (int v = 0; v < kIn; ++v) window[j][v] = A(0);
        }
      }
#pragma unroll
      for (int kx = 0; kx < K; ++kx) {
        A tap[kWide];
        load_values<kWide>(taps + ((ky * K + kx) * s.pitch + lane) * kWide, tap);
#pragma unroll
        for (int t = 0; t < kTile; ++t) {
#pragma unroll
          for (int k = 0; k < kWide; ++k) {
            if constexpr (expand) sums[t][k] += window[t + kx][k / G] * tap[k];
            else sums[t][k / G] += window[t + kx][k] * tap[k];
          }
        }
      }
    }
    T* to = out + ((int64_t{image} * s.out_h + oy) * s.out_w + ox) * (s.packs * kOut) + pack * kOut;
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      if (ox + t < s.out_w) store_values<kOut>(to + int64_t{t} * (s.packs * kOut), sums[t]);
    }
  }
}

template <class T, int K, int V, int G, bool expand>
void launch(const ConvProblem& p, const Tensor& in, const Tensor& weight, const Tensor& bias, const Tensor& out,
            bool flip) {
  using A = Accumulator<T>;
  constexpr int64_t kBytes = sizeof(A) * K * K * V * G;  // of shared memory a pack
  const ChannelTiles channels(p.o / V, std::min<int64_t>(kMaxLanes, kSharedLimit / kBytes - 1));
  DepthwiseLaunch s;
  s.in_h = static_cast<int>(in.size(1));
  s.in_w = static_cast<int>(in.size(2));
  s.out_h = static_cast<int>(out.size(1));
  s.out_w = static_cast<int>(out.size(2));
  s.pad_h = static_cast<int>(flip ? K - 1 - p.padding_h : p.padding_h);
  s.pad_w = static_cast<int>(flip ? K - 1 - p.padding_w : p.padding_w);
  s.packs = channels.packs;
  s.lanes = channels.lanes;
  s.pitch = channels.lanes | 1;
  const int row_tiles = (s.out_w + kTile - 1) / kTile;
  s.items = int64_t{channels.lanes} * p.n * row_tiles * s.out_h;
  CAMO_CHECK(s.items < (int64_t{1} << 31), "conv2d: at most 2^31 outputs on CUDA; got y ", out.shape());
  s.by_lanes = FastDivide(static_cast<uint32_t>(s.lanes));
  s.by_rows = FastDivide(static_cast<uint32_t>(s.out_h));
  s.by_tiles = FastDivide(static_cast<uint32_t>(row_tiles));
  s.flip = flip;

  cudaStream_t stream = use(in.device());
  const int64_t wanted = (s.items + kBlock - 1) / kBlock;
  const int64_t most = std::max<int64_t>(1, int64_t{device_info(in.device()).multiprocessors} * 16 / channels.tiles);
  const dim3 grid(static_cast<unsigned>(std::min(wanted, most)), static_cast<unsigned>(channels.tiles));
  depthwise_kernel<T, K, V, G, expand><<<grid, kBlock, static_cast<size_t>(kBytes * s.pitch), stream>>>(
      in.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, out.data<T>(), s);
  CAMO_LAUNCHED("conv2d_depthwise");
}

/// Two channels a pack where the number of channels and the addresses allow it.
template <class T, int K>
void launch_packed(const ConvProblem& p, const Tensor& in, const Tensor& weight, const Tensor& bias, const Tensor& out,
                   bool flip) {
  if constexpr (sizeof(T) <= 4) {
    constexpr size_t kBytes = 2 * sizeof(T);
    if (p.c % 2 == 0 && is_aligned(in.raw_data(), kBytes) && is_aligned(out.raw_data(), kBytes))
      return launch<T, K, 2, 1, false>(p, in, weight, bias, out, flip);
  }
  launch<T, K, 1, 1, false>(p, in, weight, bias, out, flip);
}

void run(const ConvProblem& p, const Tensor& in, const Tensor& weight, const Tensor& bias, const Tensor& out,
         bool backward) {
  cuda::dispatch_floating(in.dtype(), "conv2d", [&]<class T>() {
    if (p.inputs_per_group() == 4) {
      if (backward) return launch<T, 3, 1, 4, true>(p, in, weight, bias, out, true);
      return launch<T, 3, 1, 4, false>(p, aligned(in, 4 * sizeof(T)), weight, bias, out, false);
    }
    switch (p.kh) {
      case 3: return launch_packed<T, 3>(p, in, weight, bias, out, backward);
      case 5: return launch_packed<T, 5>(p, in, weight, bias, out, backward);
      case 7: return launch_packed<T, 7>(p, in, weight, bias, out, backward);
      default: return launch_packed<T, 9>(p, in, weight, bias, out, backward);
    }
  });
}

}  // namespace

bool has_depthwise_kernels(const ConvProblem& p) {
  const bool plain = p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1;
  const bool depthwise = p.inputs_per_group() == 1 && (p.kh == 3 || p.kh == 5 || p.kh == 7 || p.kh == 9);
  const bool gate = p.inputs_per_group() == 4 && p.kh == 3;
  constexpr int64_t kMost = int64_t{1} << 31;
  return p.groups == p.o && p.kh == p.kw && plain && (depthwise || gate) && p.n * p.h * p.w * p.c < kMost &&
         p.n * p.oh * p.ow * p.o < kMost;
}

void depthwise_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias,
                       const Tensor& y) {
  run(p, x, weight, bias, y, false);
}

void depthwise_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  run(p, dy, weight, {}, dx, true);
}

}  // namespace camo::cuda
