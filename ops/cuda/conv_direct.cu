#include "core/cuda/kernels.cuh"
#include "ops/cuda/conv_direct.h"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

/// One output element a thread, channels fastest.
template <class T>
struct DirectForward {
  ConvProblem p;
  const T *x, *weight, *bias;
  T* y;

  __device__ void operator()(int64_t index) const {
    using A = Accumulator<T>;
    const int64_t inputs = p.c / p.groups;
    const int64_t o = index % p.o, ox = index / p.o % p.ow, oy = index / (p.o * p.ow) % p.oh;
    const int64_t image = index / (p.o * p.ow * p.oh), first = o / (p.o / p.groups) * inputs;
    A sum = bias != nullptr ? convert<A>(bias[o]) : A(0);
    for (int64_t ky = 0; ky < p.kh; ++ky) {
      const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
      if (iy < 0 || iy >= p.h) continue;
      for (int64_t kx = 0; kx < p.kw; ++kx) {
        const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
        if (ix < 0 || ix >= p.w) continue;
        const T* from = x + ((image * p.h + iy) * p.w + ix) * p.c + first;
        const T* taps = weight + ((o * p.kh + ky) * p.kw + kx) * inputs;
        for (int64_t i = 0; i < inputs; ++i) sum += convert<A>(from[i]) * convert<A>(taps[i]);
      }
    }
    y[index] = convert<T>(sum);
  }
};

/// One element of dx a thread, channels fastest: it gathers from the outputs that read it.
template <class T>
struct DirectBackwardData {
  ConvProblem p;
  const T *dy, *weight;
  T* dx;

  __device__ void operator()(int64_t index) const {
    using A = Accumulator<T>;
    const int64_t inputs = p.c / p.groups, outputs = p.o / p.groups;
    const int64_t c = index % p.c, ix = index / p.c % p.w, iy = index / (p.c * p.w) % p.h;
    const int64_t image = index / (p.c * p.w * p.h), group = c / inputs, i = c % inputs;
    A sum = 0;
    for (int64_t ky = 0; ky < p.kh; ++ky) {
      const int64_t top = iy + p.padding_h - ky * p.dilation_h, oy = top / p.stride_h;
      if (top < 0 || oy * p.stride_h != top || oy >= p.oh) continue;
      for (int64_t kx = 0; kx < p.kw; ++kx) {
        const int64_t left = ix + p.padding_w - kx * p.dilation_w, ox = left / p.stride_w;
        if (left < 0 || ox * p.stride_w != left || ox >= p.ow) continue;
        const T* from = dy + ((image * p.oh + oy) * p.ow + ox) * p.o + group * outputs;
        const T* taps = weight + ((group * outputs * p.kh + ky) * p.kw + kx) * inputs + i;
        for (int64_t o = 0; o < outputs; ++o) sum += convert<A>(from[o]) * convert<A>(taps[o * p.kh * p.kw * inputs]);
      }
    }
    dx[index] = convert<T>(sum);
  }
};

/// Grid: (output channel and tap, tile of input channels). A block's threads are `lanes` input channels (fastest, so
/// that they read x in a row) times kBlock / lanes runs of pixels; the runs are added up by halves in shared memory.
template <class T>
__global__ void __launch_bounds__(kBlock)
    direct_backward_weight_kernel(ConvProblem p, const T* x, const T* dy, T* dweight, int lanes) {
  using A = Accumulator<T>;
  __shared__ A sums[kBlock];
  const int64_t inputs = p.c / p.groups;
  const int64_t kx = blockIdx.x % p.kw, ky = blockIdx.x / p.kw % p.kh, o = blockIdx.x / (p.kw * p.kh);
  const int64_t i = int64_t{blockIdx.y} * lanes + threadIdx.x % lanes;
  const int runs = kBlock / lanes;
  A sum = 0;
  if (i < inputs) {
    const int64_t channel = o / (p.o / p.groups) * inputs + i;
    for (int64_t pixel = threadIdx.x / lanes; pixel < p.n * p.oh * p.ow; pixel += runs) {
      const int64_t ox = pixel % p.ow, oy = pixel / p.ow % p.oh, image = pixel / (p.ow * p.oh);
      const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
      const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
      if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
      sum += convert<A>(dy[pixel * p.o + o]) * convert<A>(x[((image * p.h + iy) * p.w + ix) * p.c + channel]);
    }
  }
  sums[threadIdx.x] = sum;
  for (int half = kBlock / 2; half >= lanes; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (static_cast<int>(threadIdx.x) < lanes && i < inputs)
    dweight[blockIdx.x * inputs + i] = convert<T>(sums[threadIdx.x]);
}

template <class T>
struct AddBias {
  const T* bias;
  T* y;
  FastDivide channels;

  __device__ void operator()(int64_t index) const {
    using A = Accumulator<T>;
    const auto i = static_cast<uint32_t>(index);
    const uint32_t c = i - channels.divide(i) * channels.divisor;
    y[index] = convert<T>(convert<A>(y[index]) + convert<A>(bias[c]));
  }
};

/// The same with N channels at once.
template <class T, int N>
struct AddBiasPacked {
  const T* bias;
  T* y;
  FastDivide packs;

  __device__ void operator()(int64_t index) const {
    using A = Accumulator<T>;
    const auto i = static_cast<uint32_t>(index);
    const uint32_t pack = i - packs.divide(i) * packs.divisor;
    const Pack<T, N> add = reinterpret_cast<const Pack<T, N>*>(bias)[pack];
    Pack<T, N> value = reinterpret_cast<const Pack<T, N>*>(y)[index];
#pragma unroll
    for (int k = 0; k < N; ++k) value.values[k] = convert<T>(convert<A>(value.values[k]) + convert<A>(add.values[k]));
    reinterpret_cast<Pack<T, N>*>(y)[index] = value;
  }
};

}  // namespace

void direct_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  cuda::dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    for_each(
        x.device(), y.numel(), "conv2d_direct_forward",
        DirectForward<T>{p, x.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, y.data<T>()});
  });
}

void direct_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  cuda::dispatch_floating(dy.dtype(), "conv2d", [&]<class T>() {
    for_each(dy.device(), dx.numel(), "conv2d_direct_backward_data",
             DirectBackwardData<T>{p, dy.data<T>(), weight.data<T>(), dx.data<T>()});
  });
}

void direct_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, const Tensor& dweight) {
  if (dweight.numel() == 0) return;
  const int64_t inputs = p.inputs_per_group();
  int lanes = 1;
  while (lanes < kWarp && lanes < inputs) lanes *= 2;
  const dim3 grid(static_cast<unsigned>(p.o * p.kh * p.kw), static_cast<unsigned>((inputs + lanes - 1) / lanes));
  cuda::dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    cudaStream_t stream = use(x.device());
    direct_backward_weight_kernel<<<grid, kBlock, 0, stream>>>(p, x.data<T>(), dy.data<T>(), dweight.data<T>(), lanes);
    CAMO_LAUNCHED("conv2d_direct_backward_weight");
  });
}

void add_bias(const Tensor& bias, const Tensor& y) {
  const int64_t channels = bias.numel();
  if (y.numel() == 0) return;
  CAMO_CHECK(y.numel() < (int64_t{1} << 31), "conv2d: at most 2^31 outputs on CUDA; got y ", y.shape());
  cuda::dispatch_floating(y.dtype(), "conv2d", [&]<class T>() {
    constexpr int kPack = kPackSize<T>;
    if (channels % kPack == 0 && is_aligned(bias.data<T>(), 16) && is_aligned(y.data<T>(), 16)) {
      const FastDivide packs(static_cast<uint32_t>(channels / kPack));
      for_each(y.device(), y.numel() / kPack, "conv2d_add_bias",
               AddBiasPacked<T, kPack>{bias.data<T>(), y.data<T>(), packs});
    } else {
      const FastDivide divide(static_cast<uint32_t>(channels));
      for_each(y.device(), y.numel(), "conv2d_add_bias", AddBias<T>{bias.data<T>(), y.data<T>(), divide});
    }
  });
}

}  // namespace camo::cuda
