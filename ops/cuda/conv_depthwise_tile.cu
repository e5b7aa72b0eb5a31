#include "ops/cuda/conv_depthwise_tile.cuh"
#include "ops/cuda/conv_depthwise_tile.h"
#include "ops/cuda/shared_memory.h"
#include "ops/detail/column_reduce.cuh"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

template <class S>
DepthwiseTiles sizes(const ConvProblem& p, bool turned) {
  DepthwiseTiles s;
  s.in_h = static_cast<int>(turned ? p.oh : p.h);
  s.in_w = static_cast<int>(turned ? p.ow : p.w);
  s.out_h = static_cast<int>(turned ? p.h : p.oh);
  s.out_w = static_cast<int>(turned ? p.w : p.ow);
  s.pad_h = static_cast<int>(turned ? p.kh - 1 - p.padding_h : p.padding_h);
  s.pad_w = static_cast<int>(turned ? p.kw - 1 - p.padding_w : p.padding_w);
  s.channels = static_cast<int>(p.c);
  s.tiles_x = (s.out_w + S::kWidth - 1) / S::kWidth;
  s.tiles_y = (s.out_h + S::kHeight - 1) / S::kHeight;
  s.tiles = static_cast<int>(p.n) * s.tiles_x * s.tiles_y;
  return s;
}

/// Calls fn.template operator()<Tile<...>>(): narrow maps have tiles of 12 columns, others of 24.
template <template <class, int, int> class Tile, class Fn>
void dispatch(const ConvProblem& p, DType dtype, int64_t width, Fn&& fn) {
  const auto by_width = [&]<class T, int K>() {
    if (width <= 2 * kTileColumns) fn.template operator()<Tile<T, K, 2>>();
    else fn.template operator()<Tile<T, K, 4>>();
  };
  const auto by_kernel = [&]<class T>() {
    switch (p.kh) {
      case 3: return by_width.template operator()<T, 3>();
      case 5: return by_width.template operator()<T, 5>();
      case 7: return by_width.template operator()<T, 7>();
      default: return by_width.template operator()<T, 9>();
    }
  };
  if (dtype == f16) by_kernel.template operator()<Half>();
  else if (dtype == bf16) by_kernel.template operator()<BFloat16>();
  else by_kernel.template operator()<float>();
}

/// Bytes of shared memory of a block.
template <class S>
constexpr int64_t kMapBytes = S::kTaps* kTileChannels * sizeof(float) + S::kInElements * sizeof(typename S::T);
template <class S>
constexpr int64_t kWeightBytes = std::max<int64_t>((S::kInElements + S::kOutElements) * sizeof(typename S::T),
                                                   S::kGroups*(S::kTaps + 1) * kTileChannels * sizeof(float));

/// Whether a block of the device has as much as the kernels of all passes take: in f32, that of a weight of 7 x 7 or
/// 9 x 9 takes more than there is but on GPUs for data centres.
bool fits_shared_memory(const ConvProblem& p, DType dtype, Device device) {
  use(device);
  int most = 0;
  CAMO_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index));
  bool fits = true;
  dispatch<DepthwiseMapTile>(p, dtype, std::max(p.w, p.ow), [&]<class S>() { fits = fits && kMapBytes<S> <= most; });
  dispatch<DepthwiseWeightTile>(p, dtype, p.ow, [&]<class S>() { fits = fits && kWeightBytes<S> <= most; });
  return fits;
}

unsigned channel_tiles(const ConvProblem& p) {
  return static_cast<unsigned>((p.c + kTileChannels - 1) / kTileChannels);
}

void convolve(const ConvProblem& p, const Tensor& in, const Tensor& weight, const Tensor& bias, const Tensor& out,
              bool turned, bool adds) {
  dispatch<DepthwiseMapTile>(p, in.dtype(), out.size(2), [&]<class S>() {
    using T = typename S::T;
    const DepthwiseTiles s = sizes<S>(p, turned);
    cudaStream_t stream = use(in.device());
    const auto kernel = adds ? depthwise_tile_kernel<S, true> : depthwise_tile_kernel<S, false>;
    allow_shared_memory(kernel, kMapBytes<S>);
    kernel<<<dim3(static_cast<unsigned>(s.tiles), channel_tiles(p)), S::kThreads, kMapBytes<S>, stream>>>(
        s, turned, in.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, out.data<T>());
    CAMO_LAUNCHED("conv2d_depthwise_tile");
  });
}

/// The second kernel of the weight's gradient: [K * K + 1][channels] becomes dweight [channels][K * K] and dbias.
struct StoreTaps {
  using Partial = detail::ColumnSum<float>;
  using Total = detail::ColumnSum<double>;
  float *dweight, *dbias;
  int taps, channels;

  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    const int tap = static_cast<int>(column) / channels, c = static_cast<int>(column) % channels;
    if (tap < taps) dweight[c * taps + tap] = static_cast<float>(total.sum);
    else if (dbias != nullptr) dbias[c] = static_cast<float>(total.sum);
  }
};

}  // namespace

bool has_depthwise_tiles(const ConvProblem& p, const Tensor& in, const Tensor& out) {
  const DType dtype = in.dtype();
  if (p.inputs_per_group() != 1 || (dtype != f32 && dtype != f16 && dtype != bf16)) return false;
  return p.c * size_in_bytes(dtype) % 16 == 0 && is_aligned(in.raw_data(), 16) && is_aligned(out.raw_data(), 16) &&
         usable_capability(in.device()) >= 80 && fits_shared_memory(p, dtype, in.device());
}

void depthwise_tile_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias,
                            const Tensor& y) {
  convolve(p, x, weight, bias, y, false, false);
}

void depthwise_tile_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight, const Tensor& dx,
                                  bool adds) {
  convolve(p, dy, weight, {}, dx, true, adds);
}

void depthwise_tile_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, const Tensor& dweight,
                                    const Tensor& dbias) {
  dispatch<DepthwiseWeightTile>(p, x.dtype(), p.ow, [&]<class S>() {
    using T = typename S::T;
    const DepthwiseTiles s = sizes<S>(p, false);
    const int most =
        std::max(1, device_info(x.device()).multiprocessors * 24 / S::kGroups / static_cast<int>(channel_tiles(p)));
    const int tiles_per_block = (s.tiles + most - 1) / most;
    const int64_t blocks = (s.tiles + tiles_per_block - 1) / tiles_per_block, columns = (S::kTaps + 1) * p.c;
    const Tensor partials = empty({blocks, columns}, f32, x.device());
    cudaStream_t stream = use(x.device());
    const auto kernel = depthwise_tile_weight_kernel<S>;
    allow_shared_memory(kernel, kWeightBytes<S>);
    kernel<<<dim3(static_cast<unsigned>(blocks), channel_tiles(p)), S::kThreads, kWeightBytes<S>, stream>>>(
        s, tiles_per_block, x.data<T>(), dy.data<T>(), partials.data<float>());
    CAMO_LAUNCHED("conv2d_depthwise_tile_weight");
    detail::column_finish(x.device(), 1, blocks, columns, "conv2d_depthwise_tile_weight_sum",
                          StoreTaps{dweight.data<float>(), dbias.defined() ? dbias.data<float>() : nullptr, S::kTaps,
                                    static_cast<int>(p.c)},
                          static_cast<const StoreTaps::Partial*>(partials.raw_data()));
  });
}

}  // namespace camo::cuda
