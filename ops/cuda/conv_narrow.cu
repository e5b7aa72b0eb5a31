#include "ops/cuda/conv_narrow.cuh"
#include "ops/cuda/conv_narrow.h"
#include "ops/cuda/shared_memory.h"
#include "ops/detail/column_reduce.cuh"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

NarrowConv launch_numbers(const ConvProblem& p) {
  NarrowConv s;
  s.h = static_cast<int>(p.h);
  s.w = static_cast<int>(p.w);
  s.channels = static_cast<int>(p.c);
  s.dilation = static_cast<int>(p.dilation_h);
  s.tiles_x = (s.w + kNarrowSide - 1) / kNarrowSide;
  s.tiles_y = (s.h + kNarrowSide - 1) / kNarrowSide;
  s.tiles = static_cast<int>(p.n) * s.tiles_x * s.tiles_y;
  s.by_quads = FastDivide(static_cast<uint32_t>(s.channels / 4));
  s.by_side = FastDivide(static_cast<uint32_t>(kNarrowSide + 2 * s.dilation));
  return s;
}

/// The tensor itself, or a copy where copies of four channels could not read it.
Tensor for_quads(const Tensor& x) { return is_aligned(x.raw_data(), 8) ? x : clone(x); }

/// Calls fn.template operator()<T, kPieces>().
template <class Fn>
void dispatch(const ConvProblem& p, DType dtype, Fn&& fn) {
  const auto by_pieces = [&]<class T>() {
    switch ((p.c + 7) / 8) {
      case 1: return fn.template operator()<T, 1>();
      case 2: return fn.template operator()<T, 2>();
      case 3: return fn.template operator()<T, 3>();
      case 4: return fn.template operator()<T, 4>();
      default: return fn.template operator()<T, 5>();
    }
  };
  if (dtype == f16) by_pieces.template operator()<Half>();
  else by_pieces.template operator()<BFloat16>();
}

template <bool turned>
void convolve(const ConvProblem& p, const Tensor& in, const Tensor& weight_in, const Tensor& bias, const Tensor& out) {
  const NarrowConv s = launch_numbers(p);
  const Tensor x = for_quads(in), weight = for_quads(weight_in);
  dispatch(p, in.dtype(), [&]<class T, int kPieces>() {
    using S = NarrowShape<kPieces>;
    const int64_t bytes = (S::weight_elements(turned) + S::pixel_elements(s.dilation)) * int64_t{sizeof(T)};
    const auto kernel = narrow_conv_kernel<T, kPieces, turned>;
    cudaStream_t stream = use(in.device());
    allow_shared_memory(kernel, bytes);
    kernel<<<static_cast<unsigned>(s.tiles), kBlock, static_cast<size_t>(bytes), stream>>>(
        s, x.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, out.data<T>());
    CAMO_LAUNCHED("conv2d_narrow");
  });
}

/// The second kernel of the weight's gradient.
struct StoreSums {
  using Partial = detail::ColumnSum<float>;
  using Total = detail::ColumnSum<double>;
  float *dweight, *dbias;
  int64_t weights;

  __device__ void finish(int64_t, int64_t column, const Total& total) const {
    if (column < weights) dweight[column] = static_cast<float>(total.sum);
    else if (dbias != nullptr) dbias[column - weights] = static_cast<float>(total.sum);
  }
};

}  // namespace

bool has_narrow_kernels(const ConvProblem& p, const Tensor& x) {
  const bool plain = p.kh == 3 && p.kw == 3 && p.groups == 1 && p.stride_h == 1 && p.stride_w == 1;
  const bool dilated =
      p.dilation_h == p.dilation_w && p.padding_h == p.dilation_h && p.padding_w == p.dilation_w && p.dilation_h <= 4;
  const bool narrow = p.c == p.o && p.c % 4 == 0 && p.c <= 40 && p.n * p.h * p.w * p.c < (int64_t{1} << 31);
  return plain && dilated && narrow && (x.dtype() == f16 || x.dtype() == bf16) && usable_capability(x.device()) >= 80;
}

void narrow_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  convolve<false>(p, x, weight, bias, y);
}

void narrow_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  convolve<true>(p, dy, weight, {}, dx);
}

void narrow_backward_weight(const ConvProblem& p, const Tensor& x_in, const Tensor& dy_in, const Tensor& dweight,
                            const Tensor& dbias) {
  const NarrowConv s = launch_numbers(p);
  const Tensor x = for_quads(x_in), dy = for_quads(dy_in);
  const int most = device_info(x.device()).multiprocessors * 3;
  const int tiles_per_block = (s.tiles + most - 1) / most, blocks = (s.tiles + tiles_per_block - 1) / tiles_per_block;
  const int64_t width = (9 * p.c + 1) * p.c;
  const Tensor partials = empty({blocks, width}, f32, x.device());
  dispatch(p, x.dtype(), [&]<class T, int kPieces>() {
    using S = NarrowShape<kPieces>;
    const int64_t bytes = (S::pixel_elements(0) + S::pixel_elements(s.dilation)) * int64_t{sizeof(T)};
    const auto kernel = narrow_weight_kernel<T, kPieces>;
    cudaStream_t stream = use(x.device());
    allow_shared_memory(kernel, bytes);
    kernel<<<static_cast<unsigned>(blocks), kBlock, static_cast<size_t>(bytes), stream>>>(
        s, tiles_per_block, x.data<T>(), dy.data<T>(), partials.data<float>());
    CAMO_LAUNCHED("conv2d_narrow_weight");
  });
  static_assert(sizeof(StoreSums::Partial) == sizeof(float));
  detail::column_finish(x.device(), 1, blocks, width, "conv2d_narrow_weight_sum",
                        StoreSums{dweight.data<float>(), dbias.defined() ? dbias.data<float>() : nullptr, width - p.c},
                        static_cast<const StoreSums::Partial*>(partials.raw_data()));
}

}  // namespace camo::cuda
