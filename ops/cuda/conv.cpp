#include "ops/cuda/conv.h"

#include "ops/cuda/conv_depthwise.h"
#include "ops/cuda/conv_direct.h"
#include "ops/cuda/cudnn_conv.h"
#include "ops/math_mode.h"
#include "ops/reduce.h"

namespace camo::cuda {

namespace {

using detail::ConvProblem;

bool is_empty(const ConvProblem& p) { return p.n * p.h * p.w * p.c * p.oh * p.ow * p.o == 0; }

bool uses_depthwise(const ConvProblem& p) {
  const CudaConvolution choice = cuda_convolution();
  return choice != CudaConvolution::cudnn && choice != CudaConvolution::direct && !is_empty(p) &&
         has_depthwise_kernels(p);
}

bool uses_cudnn(const ConvProblem& p) { return cuda_convolution() != CudaConvolution::direct && !is_empty(p); }

/// cuDNN adds the bias within engines that run on tensor cores.
bool may_fuse_bias(DType dtype) { return dtype == f16 || dtype == bf16 || (dtype == f32 && allow_tf32()); }

}  // namespace

Tensor conv_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor y = empty({p.n, p.oh, p.ow, p.o}, x.dtype(), x.device());
  if (uses_depthwise(p)) {
    depthwise_forward(p, x, weight, bias, y);
    return y;
  }
  if (uses_cudnn(p)) {
    if (bias.defined() && may_fuse_bias(x.dtype()) && cudnn_conv(ConvPass::forward, p, x, weight, bias, y)) return y;
    if (cudnn_conv(ConvPass::forward, p, x, weight, {}, y)) {
      if (bias.defined()) add_bias(bias, y);
      return y;
    }
  }
  direct_forward(p, x, weight, bias, y);
  return y;
}

Tensor conv_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight) {
  const Tensor dx = empty({p.n, p.h, p.w, p.c}, dy.dtype(), dy.device());
  if (uses_depthwise(p)) depthwise_backward_data(p, dy, weight, dx);
  else if (!uses_cudnn(p) || !cudnn_conv(ConvPass::backward_data, p, dx, weight, {}, dy))
    direct_backward_data(p, dy, weight, dx);
  return dx;
}

ConvWeightGradients conv_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, bool with_bias) {
  ConvWeightGradients result;
  result.weight = empty({p.o, p.kh, p.kw, p.inputs_per_group()}, x.dtype(), x.device());
  if (uses_depthwise(p)) {
    if (with_bias) result.bias = empty({p.o}, x.dtype(), x.device());
    depthwise_backward_weight(p, x, dy, result.weight, result.bias);
    return result;
  }
  if (with_bias) result.bias = sum(dy, {0, 1, 2});
  if (!uses_cudnn(p) || !cudnn_conv(ConvPass::backward_weight, p, x, result.weight, {}, dy))
    direct_backward_weight(p, x, dy, result.weight);
  return result;
}

bool chooses_patches(const ConvProblem& p) {
  return cuda_convolution() == CudaConvolution::patches && p.groups == 1 && p.kh == p.stride_h && p.kw == p.stride_w &&
         p.padding_h == 0 && p.padding_w == 0 && p.dilation_h == 1 && p.dilation_w == 1;
}

}  // namespace camo::cuda
