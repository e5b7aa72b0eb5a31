#include "ops/cuda/conv.h"

#include <algorithm>

#include "ops/cuda/conv_depthwise.h"
#include "ops/cuda/conv_depthwise_tile.h"
#include "ops/cuda/conv_direct.h"
#include "ops/cuda/conv_narrow.h"
#include "ops/cuda/cudnn_conv.h"
#include "ops/detail/column_sum.h"
#include "ops/math_mode.h"
#include "ops/shape_ops.h"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

/// Not by the product of all: of maps of 2^32 elements it is a multiple of 2^64.
bool is_empty(const ConvProblem& p) { return p.n * p.h * p.w * p.c == 0 || p.oh * p.ow * p.o == 0; }

bool uses_depthwise(const ConvProblem& p) {
  const CudaConvolution choice = cuda_convolution();
  return choice != CudaConvolution::cudnn && choice != CudaConvolution::direct && !is_empty(p) &&
         has_depthwise_kernels(p);
}

bool uses_narrow(const ConvProblem& p, const Tensor& x) {
  return cuda_convolution() == CudaConvolution::automatic && !is_empty(p) && has_narrow_kernels(p, x);
}

bool uses_cudnn(const ConvProblem& p) { return cuda_convolution() != CudaConvolution::direct && !is_empty(p); }

/// cuDNN adds the bias within engines that run on tensor cores.
bool may_fuse_bias(DType dtype) { return dtype == f16 || dtype == bf16 || (dtype == f32 && allow_tf32()); }

/// How many images cuDNN gets at once. Its fast engines for f32 without TF32 copy both maps to channels first in their
/// workspace; when that is too small, what is left takes up to 50 times as long.
int64_t images_at_once(ConvPass pass, const ConvProblem& p, DType dtype) {
  if (dtype != f32 || allow_tf32() || pass == ConvPass::backward_weight) return p.n;
  const int64_t x_bytes = 4 * p.h * p.w * p.c, y_bytes = 4 * p.oh * p.ow * p.o;
  if (x_bytes % 16 != 0 || y_bytes % 16 != 0) return p.n;  // parts of the batch would not be aligned
  return std::clamp<int64_t>((kConvWorkspace - kConvWorkspace / 16) / (x_bytes + y_bytes), 1, p.n);
}

bool run_cudnn(ConvPass pass, const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias,
               const Tensor& y) {
  const int64_t most = images_at_once(pass, p, x.dtype());
  if (most >= p.n) return cudnn_conv(pass, p, x, weight, bias, y);
  for (int64_t first = 0; first < p.n; first += most) {
    ConvProblem part = p;
    part.n = std::min(most, p.n - first);
    const Tensor from = slice(x, 0, first, first + part.n), to = slice(y, 0, first, first + part.n);
    if (!cudnn_conv(pass, part, from, weight, bias, to)) return false;
  }
  return true;
}

}  // namespace

Tensor conv_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor y = empty({p.n, p.oh, p.ow, p.o}, x.dtype(), x.device());
  if (uses_depthwise(p)) {
    if (has_depthwise_tiles(p, x, y)) depthwise_tile_forward(p, x, weight, bias, y);
    else depthwise_forward(p, x, weight, bias, y);
    return y;
  }
  if (uses_narrow(p, x)) {
    narrow_forward(p, x, weight, bias, y);
    return y;
  }
  if (uses_cudnn(p)) {
    if (bias.defined() && may_fuse_bias(x.dtype()) && run_cudnn(ConvPass::forward, p, x, weight, bias, y)) return y;
    if (run_cudnn(ConvPass::forward, p, x, weight, {}, y)) {
      if (bias.defined()) add_bias(bias, y);
      return y;
    }
  }
  direct_forward(p, x, weight, bias, y);
  return y;
}

bool adds_to_dx(const ConvProblem& p, const Tensor& dy) { return uses_depthwise(p) && has_depthwise_tiles(p, dy, dy); }

Tensor conv_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight, const Tensor& sum) {
  const bool adds = sum.defined();
  CAMO_ASSERT(!adds || adds_to_dx(p, dy));
  const Tensor dx = adds ? sum : empty({p.n, p.h, p.w, p.c}, dy.dtype(), dy.device());
  if (uses_depthwise(p) && has_depthwise_tiles(p, dy, dx)) depthwise_tile_backward_data(p, dy, weight, dx, adds);
  else if (uses_depthwise(p)) depthwise_backward_data(p, dy, weight, dx);
  else if (uses_narrow(p, dy)) narrow_backward_data(p, dy, weight, dx);
  else if (!uses_cudnn(p) || !run_cudnn(ConvPass::backward_data, p, dx, weight, {}, dy))
    direct_backward_data(p, dy, weight, dx);
  return dx;
}

ConvWeightGradients conv_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, bool with_bias) {
  ConvWeightGradients result;
  const bool tiles = uses_depthwise(p) && has_depthwise_tiles(p, x, dy);
  if (tiles || uses_narrow(p, x)) {
    result.weight = empty({p.o, p.kh, p.kw, p.inputs_per_group()}, f32, x.device());
    if (with_bias) result.bias = empty({p.o}, f32, x.device());
    const auto run = tiles ? depthwise_tile_backward_weight : narrow_backward_weight;
    run(p, x, dy, result.weight, result.bias);
    return result;
  }
  result.weight = empty({p.o, p.kh, p.kw, p.inputs_per_group()}, x.dtype(), x.device());
  if (uses_depthwise(p)) {
    if (with_bias) result.bias = empty({p.o}, x.dtype(), x.device());
    depthwise_backward_weight(p, x, dy, result.weight, result.bias);
    return result;
  }
  if (with_bias) {
    result.bias = empty({p.o}, x.dtype() == f64 ? f64 : f32, x.device());
    detail::column_sum_cuda(result.bias, dy);
  }
  if (!uses_cudnn(p) || !cudnn_conv(ConvPass::backward_weight, p, x, result.weight, {}, dy))
    direct_backward_weight(p, x, dy, result.weight);
  return result;
}

bool chooses_patches(const ConvProblem& p) {
  return cuda_convolution() == CudaConvolution::patches && p.groups == 1 && p.kh == p.stride_h && p.kw == p.stride_w &&
         p.padding_h == 0 && p.padding_w == 0 && p.dilation_h == 1 && p.dilation_w == 1;
}

}  // namespace camo::cuda
