#include "nn/layers.h"

#include "nn/init.h"
#include "ops/dropout.h"
#include "ops/matmul.h"
#include "ops/normalization.h"

namespace camo {

Linear::Linear(const LinearSpec& spec) {
  CAMO_CHECK(spec.in > 0 && spec.out > 0, "Linear: in and out must be positive; got in ", spec.in, ", out ", spec.out);
  weight_ = param("weight", init_uniform_fan_in({spec.out, spec.in}, spec.in));
  if (spec.bias) bias_ = param("bias", init_uniform_fan_in({spec.out}, spec.in));
}

Tensor Linear::operator()(const Tensor& x) const { return linear(x, weight_, bias_); }

Conv2d::Conv2d(const Conv2dSpec& spec)
    : options_{.stride = {spec.stride, spec.stride},
               .padding = {spec.padding, spec.padding},
               .dilation = {spec.dilation, spec.dilation},
               .groups = spec.groups} {
  CAMO_CHECK(spec.in > 0 && spec.out > 0 && spec.kernel > 0, "Conv2d: in, out and kernel must be positive; got in ",
             spec.in, ", out ", spec.out, ", kernel ", spec.kernel);
  CAMO_CHECK(spec.groups > 0 && spec.in % spec.groups == 0 && spec.out % spec.groups == 0,
             "Conv2d: groups must divide in and out; got in ", spec.in, ", out ", spec.out, ", groups ", spec.groups);
  CAMO_CHECK(spec.stride > 0 && spec.dilation > 0 && spec.padding >= 0,
             "Conv2d: stride and dilation must be positive, padding not negative; got stride ", spec.stride,
             ", dilation ", spec.dilation, ", padding ", spec.padding);
  const int64_t group_in = spec.in / spec.groups;
  const int64_t fan_in = group_in * spec.kernel * spec.kernel;
  weight_ =
      param("weight", init_uniform_fan_in({spec.out, spec.kernel, spec.kernel, group_in}, fan_in), Layout::conv_weight);
  if (spec.bias) bias_ = param("bias", init_uniform_fan_in({spec.out}, fan_in));
}

Tensor Conv2d::operator()(const Tensor& x) const { return conv2d(x, weight_, bias_, options_); }

LayerNorm::LayerNorm(int64_t channels, double eps) : eps_(eps) {
  CAMO_CHECK(channels > 0 && eps >= 0, "LayerNorm: channels must be positive, eps not negative; got channels ",
             channels, ", eps ", eps);
  weight_ = param("weight", ones({channels}));
  bias_ = param("bias", zeros({channels}));
}

Tensor LayerNorm::operator()(const Tensor& x) const { return layer_norm(x, weight_, bias_, eps_); }

BatchNorm2d::BatchNorm2d(int64_t channels, double eps, double momentum) : eps_(eps), momentum_(momentum) {
  CAMO_CHECK(channels > 0 && eps >= 0 && momentum >= 0 && momentum <= 1,
             "BatchNorm2d: channels must be positive, eps not negative, momentum in [0, 1]; got channels ", channels,
             ", eps ", eps, ", momentum ", momentum);
  weight_ = param("weight", ones({channels}));
  bias_ = param("bias", zeros({channels}));
  running_mean_ = buffer("running_mean", zeros({channels}));
  running_var_ = buffer("running_var", ones({channels}));
  num_batches_tracked_ = buffer("num_batches_tracked", zeros({}, i64, cpu));
}

Tensor BatchNorm2d::operator()(const Tensor& x) const {
  Tensor y = batch_norm(x, weight_, bias_, running_mean_, running_var_,
                        {.training = training(), .momentum = momentum_, .eps = eps_});
  if (training() && !is_recomputing()) {  // whole-number buffers stay on the CPU
    ++*num_batches_tracked_.data<int64_t>();
    num_batches_tracked_.storage()->bump_version();
  }
  return y;
}

Dropout::Dropout(double p) : p_(p) {
  CAMO_CHECK(p >= 0 && p < 1, "Dropout: the probability must be in [0, 1); got ", p);
}

Tensor Dropout::operator()(const Tensor& x) const { return dropout(x, p_, training()); }

}  // namespace camo
