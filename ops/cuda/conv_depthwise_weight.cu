// dweight[o, ky, kx, g] = sum over images and pixels of dy[oy, ox, o] * x[oy + ky - pad, ox + kx - pad, o * G + g], and
// dbias[o] = the sum of dy. Two steps in a fixed order: sums of each block's share of the pixels, then over blocks.
#include "ops/cuda/conv_depthwise.cuh"
#include "ops/cuda/conv_depthwise.h"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

/// Rows of the kernel that one thread has sums for; the others go to other blocks (blockIdx.z).
template <int K>
inline constexpr int kRows = K <= 5 ? K : (K == 7 ? 4 : 3);

struct WeightLaunch {
  int h, w, oh, ow;
  int pad_h, pad_w;
  int packs, lanes, groups;    // groups: of threads that share a block's pixels
  int items, items_per_block;  // tiles of kTile pixels in all images
  FastDivide by_rows, by_tiles;
};

/// Grid: (share of the pixels, tile of channels, rows of the kernel). `partial` is [gridDim.x][K * K + 1][C], the last
/// row of each block the sums for the bias. Shared memory: [sums][half of the groups * lanes].
template <class T, int K, int V, int G>
__global__ void __launch_bounds__(kBlock, 2)
    depthwise_weight_kernel(const T* __restrict__ x, const T* __restrict__ dy, Accumulator<T>* __restrict__ partial,
                            WeightLaunch s) {
  using A = Accumulator<T>;
  constexpr int R = kRows<K>, kWide = V * G, kSums = R * K * kWide;
  extern __shared__ __align__(16) unsigned char shared[];
  A* exchange = reinterpret_cast<A*>(shared);
  const int lane = static_cast<int>(threadIdx.x) % s.lanes, group = static_cast<int>(threadIdx.x) / s.lanes;
  const int pack = static_cast<int>(blockIdx.y) * s.lanes + lane;
  const int first_row = static_cast<int>(blockIdx.z) * R;

  A sums[R][K][kWide], bias[V];
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i / (K * kWide)][i / kWide % K][i % kWide] = A(0);
#pragma unroll
  for (int v = 0; v < V; ++v) bias[v] = A(0);

  const int begin = static_cast<int>(blockIdx.x) * s.items_per_block, end = min(begin + s.items_per_block, s.items);
  const bool active = group < s.groups && pack < s.packs;
  for (int item = active ? begin + group : end; item < end; item += s.groups) {
    const auto next = static_cast<int>(s.by_rows.divide(static_cast<uint32_t>(item)));
    const int oy = item - next * s.oh;
    const auto image = static_cast<int>(s.by_tiles.divide(static_cast<uint32_t>(next)));
    const int ox = (next - image * static_cast<int>(s.by_tiles.divisor)) * kTile;

    A d[kTile][V];
    const T* from = dy + ((int64_t{image} * s.oh + oy) * s.ow + ox) * (s.packs * V) + pack * V;
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      if (ox + t < s.ow) {
        load_values<V>(from + int64_t{t} * (s.packs * V), d[t]);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) d[t][v] = A(0);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) bias[v] += d[t][v];
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int iy = oy + first_row + r - s.pad_h;
      if (first_row + r >= K || iy < 0 || iy >= s.h) continue;
      const T* row = x + (int64_t{image} * s.h + iy) * s.w * (s.packs * kWide) + pack * kWide;
#pragma unroll
      for (int j = 0; j < kTile + K - 1; ++j) {
        const int ix = ox + j - s.pad_w;
        A value[kWide];
        if (ix >= 0 && ix < s.w) {
          load_values<kWide>(row + int64_t{ix} * (s.packs * kWide), value);
        } else {
#pragma unroll
          for (int k = 0; k < kWide; ++k) value[k] = A(0);
        }
#pragma unroll
        for (int kx = 0; kx < K; ++kx) {
          const int t = j - kx;
          if (t < 0 || t >= kTile) continue;
#pragma unroll
          for (int k = 0; k < kWide; ++k) sums[r][kx][k] += d[t][k / G] * value[k];
        }
      }
    }
  }

  // The groups by halves: the upper one hands its sums over.
  for (int groups = s.groups; groups > 1;) {
    const int half = (groups + 1) / 2, slots = (groups - half) * s.lanes;
    if (group >= half && group < groups) {
      A* to = exchange + (group - half) * s.lanes + lane;
#pragma unroll
      for (int i = 0; i < kSums; ++i) to[i * slots] = sums[i / (K * kWide)][i / kWide % K][i % kWide];
#pragma unroll
      for (int v = 0; v < V; ++v) to[(kSums + v) * slots] = bias[v];
    }
    __syncthreads();
    if (group + half < groups) {
      const A* other = exchange + group * s.lanes + lane;
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i / (K * kWide)][i / kWide % K][i % kWide] += other[i * slots];
#pragma unroll
      for (int v = 0; v < V; ++v) bias[v] += other[(kSums + v) * slots];
    }
    __syncthreads();
    groups = half;
  }
  if (group != 0 || pack >= s.packs) return;
  const int channels = s.packs * kWide;
  A* to = partial + int64_t{blockIdx.x} * (K * K + 1) * channels;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (first_row + r >= K) continue;
#pragma unroll
    for (int kx = 0; kx < K; ++kx) {
      store_values<kWide>(to + ((first_row + r) * K + kx) * channels + pack * kWide, sums[r][kx]);
    }
  }
  if (blockIdx.z == 0) {
#pragma unroll
    for (int v = 0; v < V; ++v) to[K * K * channels + pack * V + v] = bias[v];
  }
}

/// Sums over blocks: 32 x 32 threads take 32 columns of `partial` and 32 runs of its blocks. dweight is [o][taps][G].
template <class T>
__global__ void __launch_bounds__(kWarp* kWarp)
    depthwise_weight_sum_kernel(const Accumulator<T>* __restrict__ partial, T* __restrict__ dweight,
                                T* __restrict__ dbias, int blocks, int taps, int channels, int outputs) {
  using A = Accumulator<T>;
  __shared__ A tile[kWarp][kWarp + 1];
  const int columns = (taps + 1) * channels;
  const int column = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x);
  A sum = 0;
  // The bias has one column an output, fewer than channels when inputs share an output.
  if (column < taps * channels + outputs) {
    for (int block = static_cast<int>(threadIdx.y); block < blocks; block += kWarp)
      sum += partial[int64_t{block} * columns + column];
  }
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(tile[threadIdx.x][threadIdx.y]);
  const int own = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.y);
  if (threadIdx.x != 0 || own >= taps * channels + outputs) return;
  const int tap = own / channels, c = own % channels, group = channels / outputs;
  if (tap < taps) dweight[(c / group * taps + tap) * group + c % group] = convert<T>(sum);
  else if (dbias != nullptr) dbias[c] = convert<T>(sum);
}

template <class T, int K, int V, int G>
void launch(const ConvProblem& p, const Tensor& x, const Tensor& dy, const Tensor& dweight, const Tensor& dbias) {
  using A = Accumulator<T>;
  const Device device = x.device();
  const ChannelTiles channels(p.o / V, kMaxLanes);
  const int row_tiles = static_cast<int>((p.ow + kTile - 1) / kTile);
  const int64_t items = p.n * row_tiles * p.oh;
  CAMO_CHECK(items < (int64_t{1} << 31), "conv2d: at most 2^31 outputs on CUDA; got dy ", dy.shape());
  WeightLaunch s;
  s.h = static_cast<int>(p.h);
  s.w = static_cast<int>(p.w);
  s.oh = static_cast<int>(p.oh);
  s.ow = static_cast<int>(p.ow);
  s.pad_h = static_cast<int>(p.padding_h);
  s.pad_w = static_cast<int>(p.padding_w);
  s.packs = channels.packs;
  s.lanes = channels.lanes;
  s.groups = kBlock / channels.lanes;
  s.items = static_cast<int>(items);
  s.by_rows = FastDivide(static_cast<uint32_t>(s.oh));
  s.by_tiles = FastDivide(static_cast<uint32_t>(row_tiles));

  constexpr int kSplits = (K + kRows<K> - 1) / kRows<K>;
  const int64_t wanted =
      std::max<int64_t>(1, int64_t{device_info(device).multiprocessors} * 4 / (int64_t{channels.tiles} * kSplits));
  const int64_t share = std::max<int64_t>((items + wanted - 1) / wanted, s.groups);
  const int64_t blocks = (items + share - 1) / share;
  s.items_per_block = static_cast<int>(share);

  const int64_t columns = (K * K + 1) * p.c;
  const Tensor partial = empty({blocks, columns}, dtype_of<A>, device);
  constexpr int64_t kBytes = (kRows<K> * K * V * G + V) * sizeof(A);  // of shared memory a thread of the upper half
  static_assert(kBytes * (kBlock / 2) <= kSharedLimit);
  const int64_t bytes = kBytes * (s.groups / 2) * s.lanes;
  cudaStream_t stream = use(device);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(channels.tiles), kSplits);
  depthwise_weight_kernel<T, K, V, G>
      <<<grid, kBlock, static_cast<size_t>(bytes), stream>>>(x.data<T>(), dy.data<T>(), partial.data<A>(), s);
  CAMO_LAUNCHED("conv2d_depthwise_weight");
  const auto sum_blocks = static_cast<unsigned>((columns + kWarp - 1) / kWarp);
  depthwise_weight_sum_kernel<T><<<sum_blocks, dim3(kWarp, kWarp), 0, stream>>>(
      partial.data<A>(), dweight.data<T>(), dbias.defined() ? dbias.data<T>() : nullptr, static_cast<int>(blocks),
      K * K, static_cast<int>(p.c), static_cast<int>(p.o));
  CAMO_LAUNCHED("conv2d_depthwise_weight_sum");
}

template <class T, int K>
void launch_packed(const ConvProblem& p, const Tensor& x, const Tensor& dy, const Tensor& dweight,
                   const Tensor& dbias) {
  if constexpr (sizeof(T) <= 4) {
    constexpr size_t kBytes = 2 * sizeof(T);
    if (p.c % 2 == 0 && is_aligned(x.raw_data(), kBytes) && is_aligned(dy.raw_data(), kBytes))
      return launch<T, K, 2, 1>(p, x, dy, dweight, dbias);
  }
  launch<T, K, 1, 1>(p, x, dy, dweight, dbias);
}

}  // namespace

void depthwise_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, const Tensor& dweight,
                               const Tensor& dbias) {
  cuda::dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    if (p.inputs_per_group() == 4) return launch<T, 3, 1, 4>(p, aligned(x, 4 * sizeof(T)), dy, dweight, dbias);
    switch (p.kh) {
      case 3: return launch_packed<T, 3>(p, x, dy, dweight, dbias);
      case 5: return launch_packed<T, 5>(p, x, dy, dweight, dbias);
      case 7: return launch_packed<T, 7>(p, x, dy, dweight, dbias);
      default: return launch_packed<T, 9>(p, x, dy, dweight, dbias);
    }
  });
}

}  // namespace camo::cuda
