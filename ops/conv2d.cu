// Two-dimensional convolution (cross-correlation), channels last, in groups.
//
//   y[n, oy, ox, o]    = bias[o] + sum over ky, kx, i of x[n, iy, ix, g * I + i] * weight[o, ky, kx, i]
//                        with iy = oy * stride - padding + ky * dilation (ix likewise), g the group of o, I = C /
//                        groups
//   dx[n, iy, ix, c]   = sum over the (oy, ox, o, ky, kx) that read it of dy * weight
//   dweight[o, ky, kx] = sum over n, oy, ox of dy[n, oy, ox, o] * x[n, iy, ix, group of o]
//   dbias              = sum over n, oy, ox of dy
//
// Saves x and weight. Sums in the element type. Implementations on the CPU: the plain loops below (the oracle); a
// matrix product for 1x1 kernels; vectorised loops for depthwise problems; oneDNN for other f32 and, where the
// processor has instructions for it, bf16 problems, except for the weights of large maps; for other problems with one
// group, a matrix product over gathered windows. Other 16-bit problems are converted to f32. On CUDA (ops/cuda/conv.h):
// kernels for depthwise problems and for few channels, cuDNN, and plain kernels for what it has no engine for; 16-bit
// types sum in f32.
#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "core/parallel.h"
#include "ops/conv2d.h"
#include "ops/detail/autocast.h"
#include "ops/detail/conv_depthwise.h"
#include "ops/detail/conv_filter.h"
#include "ops/detail/conv_im2col.h"
#include "ops/detail/conv_problem.h"
#include "ops/detail/gemm.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/linear.h"
#include "ops/detail/onednn_conv.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#ifdef CAMO_WITH_CUDA
#include "ops/cuda/conv.h"
#endif

namespace camo {

namespace {

using detail::ConvProblem;
using detail::TapRange;

template <class T>
void plain_forward(const ConvProblem& p, const T* x, const T* weight, const T* bias, T* y) {
  const int64_t inputs = p.inputs_per_group(), outputs = p.outputs_per_group();
  parallel_for(p.n * p.oh, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / p.oh, oy = row % p.oh;
      for (int64_t ox = 0; ox < p.ow; ++ox) {
        for (int64_t o = 0; o < p.o; ++o) {
          T sum = bias ? bias[o] : T(0);
          for (int64_t ky = 0; ky < p.kh; ++ky) {
            const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
            if (iy < 0 || iy >= p.h) continue;
            for (int64_t kx = 0; kx < p.kw; ++kx) {
              const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
              if (ix < 0 || ix >= p.w) continue;
              const T* from = x + ((image * p.h + iy) * p.w + ix) * p.c + o / outputs * inputs;
              const T* taps = weight + ((o * p.kh + ky) * p.kw + kx) * inputs;
#pragma omp simd reduction(+ : sum)
              for (int64_t i = 0; i < inputs; ++i) sum += from[i] * taps[i];
            }
          }
          y[(row * p.ow + ox) * p.o + o] = sum;
        }
      }
    }
  });
}

// dx is zero before. One image a thread: each element has one writer.
template <class T>
void plain_backward_data(const ConvProblem& p, const T* dy, const T* weight, T* dx) {
  const int64_t inputs = p.inputs_per_group(), outputs = p.outputs_per_group();
  parallel_for(p.n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * p.oh; row < end * p.oh; ++row) {
      const int64_t image = row / p.oh, oy = row % p.oh;
      for (int64_t ox = 0; ox < p.ow; ++ox) {
        for (int64_t o = 0; o < p.o; ++o) {
          const T d = dy[(row * p.ow + ox) * p.o + o];
          for (int64_t ky = 0; ky < p.kh; ++ky) {
            const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
            if (iy < 0 || iy >= p.h) continue;
            for (int64_t kx = 0; kx < p.kw; ++kx) {
              const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
              if (ix < 0 || ix >= p.w) continue;
              T* to = dx + ((image * p.h + iy) * p.w + ix) * p.c + o / outputs * inputs;
              const T* taps = weight + ((o * p.kh + ky) * p.kw + kx) * inputs;
#pragma omp simd
              for (int64_t i = 0; i < inputs; ++i) to[i] += d * taps[i];
            }
          }
        }
      }
    }
  });
}

// dweight is zero before.
template <class T>
void plain_backward_weight(const ConvProblem& p, const T* x, const T* dy, T* dweight) {
  const int64_t inputs = p.inputs_per_group(), outputs = p.outputs_per_group();
  parallel_for(p.o, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t ky = 0; ky < p.kh; ++ky) {
        const TapRange vertical(ky, p.h, p.oh, p.stride_h, p.padding_h, p.dilation_h);
        for (int64_t kx = 0; kx < p.kw; ++kx) {
          const TapRange horizontal(kx, p.w, p.ow, p.stride_w, p.padding_w, p.dilation_w);
          T* to = dweight + ((o * p.kh + ky) * p.kw + kx) * inputs;
          for (int64_t image = 0; image < p.n; ++image) {
            for (int64_t oy = vertical.begin; oy < vertical.end; ++oy) {
              const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
              for (int64_t ox = horizontal.begin; ox < horizontal.end; ++ox) {
                const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
                const T d = dy[((image * p.oh + oy) * p.ow + ox) * p.o + o];
                const T* from = x + ((image * p.h + iy) * p.w + ix) * p.c + o / outputs * inputs;
#pragma omp simd
                for (int64_t i = 0; i < inputs; ++i) to[i] += d * from[i];
              }
            }
          }
        }
      }
    }
  });
}

enum class Method { plain, depthwise, filter, onednn, im2col };
enum class Pass { forward, backward_data, backward_weight };

Method choose_method(const ConvProblem& p, [[maybe_unused]] DType dtype, Pass pass) {
  if (cpu_kernels() == CpuKernels::plain || p.n * p.oh * p.ow * p.o * p.c == 0) return Method::plain;
  bool library = false;
#ifdef CAMO_WITH_ONEDNN
  library = dtype == f32 || (dtype == bf16 && detail::has_bf16_products());
#endif
  if (detail::is_depthwise(p) && (pass != Pass::backward_data || detail::has_depthwise_backward_data(p))) {
    // With one input a group, oneDNN takes half of our time forward and for dx, but up to 20 times as long for dweight
    // (kernels 5 to 9). With four inputs a group, our loops take a third to all of its time.
    const bool library_is_faster = p.inputs_per_group() == 1 && pass != Pass::backward_weight;
    return library && library_is_faster ? Method::onednn : Method::depthwise;
  }
  if (dtype == f32 && pass == Pass::backward_weight && detail::has_conv_filter_gradient(p)) return Method::filter;
  if (library) return Method::onednn;
  return detail::has_im2col(p) ? Method::im2col : Method::plain;
}

/// Calls fn.template operator()<T>() with the element types that oneDNN takes.
template <class Fn>
void dispatch_onednn([[maybe_unused]] DType dtype, [[maybe_unused]] Fn&& fn) {
#ifdef CAMO_WITH_ONEDNN
  if (dtype == bf16) fn.template operator()<BFloat16>();
  else fn.template operator()<float>();
#endif
}

Tensor forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias) {
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda()) return cuda::conv_forward(p, x, weight, bias);
#endif
  const Method method = choose_method(p, x.dtype(), Pass::forward);
  if (detail::needs_f32(x) && method != Method::onednn) {
    const Tensor shift = bias.defined() ? detail::in_f32(bias) : bias;
    return detail::rounded_to(forward(p, detail::in_f32(x), detail::in_f32(weight), shift), x.dtype());
  }
  if (method == Method::im2col) return detail::im2col_forward(p, x, weight, bias);
  Tensor y = empty({p.n, p.oh, p.ow, p.o}, x.dtype(), cpu);
#ifdef CAMO_WITH_ONEDNN
  if (method == Method::onednn) {
    dispatch_onednn(x.dtype(), [&]<class T>() {
      onednn::conv_forward(p, x.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr, y.data<T>());
    });
    return y;
  }
#endif
  dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    const T* bias_data = bias.defined() ? bias.data<T>() : nullptr;
    const auto run = method == Method::depthwise ? detail::depthwise_forward<T> : plain_forward<T>;
    run(p, x.data<T>(), weight.data<T>(), bias_data, y.data<T>());
  });
  return y;
}

/// May add to the sum of `node`.
Tensor backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight,
                     [[maybe_unused]] const Node* node = nullptr) {
#ifdef CAMO_WITH_CUDA
  if (dy.is_cuda()) {
    const bool adds = node != nullptr && cuda::adds_to_dx(p, dy);
    return cuda::conv_backward_data(p, dy, weight, adds ? take_gradient_sum(*node, 0) : Tensor());
  }
#endif
  const Method method = choose_method(p, dy.dtype(), Pass::backward_data);
  if (detail::needs_f32(dy) && method != Method::onednn) {
    return detail::rounded_to(backward_data(p, detail::in_f32(dy), detail::in_f32(weight)), dy.dtype());
  }
  if (method == Method::im2col) return detail::im2col_backward_data(p, dy, weight);
  const Shape shape{p.n, p.h, p.w, p.c};
  Tensor dx = method == Method::plain ? zeros(shape, dy.dtype(), cpu) : empty(shape, dy.dtype(), cpu);
#ifdef CAMO_WITH_ONEDNN
  if (method == Method::onednn) {
    dispatch_onednn(dy.dtype(),
                    [&]<class T>() { onednn::conv_backward_data(p, dy.data<T>(), weight.data<T>(), dx.data<T>()); });
    return dx;
  }
#endif
  dispatch_floating(dy.dtype(), "conv2d", [&]<class T>() {
    const auto run = method == Method::depthwise ? detail::depthwise_backward_data<T> : plain_backward_data<T>;
    run(p, dy.data<T>(), weight.data<T>(), dx.data<T>());
  });
  return dx;
}

struct WeightGradients {
  Tensor weight, bias;
};

/// On the CPU in f32 for 16-bit x.
WeightGradients backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy, bool with_bias) {
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda()) {
    const auto [dweight, dbias] = cuda::conv_backward_weight(p, x, dy, with_bias);
    return {dweight, dbias};
  }
#endif
  const Method method = choose_method(p, x.dtype(), Pass::backward_weight);
  if (detail::needs_f32(x) && method != Method::onednn) {
    return backward_weight(p, detail::in_f32(x), detail::in_f32(dy), with_bias);
  }
  WeightGradients gradients;
  // Not by oneDNN, which sums millions of elements one after the other: 10 times the rounding error of our sum.
  if (with_bias) gradients.bias = sum(detail::in_f32(dy), {0, 1, 2});
  if (method == Method::im2col) {
    gradients.weight = detail::im2col_backward_weight(p, x, dy);
    return gradients;
  }
  const Shape shape{p.o, p.kh, p.kw, p.inputs_per_group()};
#ifdef CAMO_WITH_ONEDNN
  if (method == Method::onednn) {
    gradients.weight = empty(shape, f32, cpu);
    dispatch_onednn(x.dtype(), [&]<class T>() {
      onednn::conv_backward_weight(p, x.data<T>(), dy.data<T>(), gradients.weight.data<float>());
    });
    return gradients;
  }
#endif
  gradients.weight = method == Method::plain ? zeros(shape, x.dtype(), cpu) : empty(shape, x.dtype(), cpu);
  dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    if constexpr (std::is_same_v<T, float>) {
      if (method == Method::filter) {
        return detail::conv_filter_gradient(p, x.data<T>(), dy.data<T>(), gradients.weight.data<T>());
      }
    }
    const auto run = method == Method::depthwise ? detail::depthwise_backward_weight<T> : plain_backward_weight<T>;
    run(p, x.data<T>(), dy.data<T>(), gradients.weight.data<T>());
  });
  return gradients;
}

struct Conv2dNode final : Node {
  Conv2dNode(const ConvProblem& p, DType of_parameters) : Node("conv2d"), problem(p), parameters(of_parameters) {}
  ConvProblem problem;
  DType parameters;  // that their gradients have; x and weight may be 16-bit copies
  Saved x{this, "x"};
  Saved weight{this, "weight"};

  Tensors backward(const Tensors& dy_in) override {
    const Tensor dy = contiguous(dy_in[0]);
    const bool with_bias = edges().size() > 2 && needs(2);
    Tensors gradients(edges().size());
    if (needs(0)) gradients[0] = backward_data(problem, dy, *weight, this);
    if (needs(1)) {
      WeightGradients both = backward_weight(problem, *x, dy, with_bias);
      gradients[1] = both.weight;
      if (with_bias) gradients[2] = both.bias;
    } else if (with_bias) {
      gradients[2] = sum(dy.is_cuda() ? dy : detail::in_f32(dy), {0, 1, 2});
    }
    for (size_t i = 1; i < gradients.size(); ++i) {
      if (gradients[i].defined()) gradients[i] = to(gradients[i], parameters);
    }
    return gradients;
  }
};

ConvProblem checked_problem(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options) {
  CAMO_CHECK(x.dims() == 4, "conv2d: x must be [N, H, W, C]; got ", x.shape());
  CAMO_CHECK(weight.dims() == 4, "conv2d: weight must be [O, KH, KW, C / groups]; got ", weight.shape());
  CAMO_CHECK(is_floating(x.dtype()), "conv2d: computes in floating dtypes; got ", x.dtype());
  CAMO_CHECK(x.dtype() == weight.dtype() && x.device() == weight.device(),
             "conv2d: x and weight must share dtype and device; got x ", x.dtype(), " on ", x.device(), ", weight ",
             weight.dtype(), " on ", weight.device());
  const auto [stride, padding, dilation, groups] = options;
  CAMO_CHECK(stride[0] >= 1 && stride[1] >= 1, "conv2d: strides must be at least 1; got ", stride[0], ", ", stride[1]);
  CAMO_CHECK(dilation[0] >= 1 && dilation[1] >= 1, "conv2d: dilations must be at least 1; got ", dilation[0], ", ",
             dilation[1]);
  CAMO_CHECK(padding[0] >= 0 && padding[1] >= 0, "conv2d: paddings must not be negative; got ", padding[0], ", ",
             padding[1]);
  const int64_t c = x.size(3), o = weight.size(0), kh = weight.size(1), kw = weight.size(2);
  CAMO_CHECK(groups >= 1 && c % groups == 0 && o % groups == 0,
             "conv2d: groups must divide the channels of x and of y; ", "got groups ", groups, ", x with ", c,
             " channels, weight with ", o, " outputs");
  CAMO_CHECK(weight.size(3) * groups == c, "conv2d: weight ", weight.shape(), " with ", groups, " groups expects ",
             weight.size(3) * groups, " input channels; got x ", x.shape(), " with ", c);
  CAMO_CHECK(kh >= 1 && kw >= 1, "conv2d: the kernel must not be empty; got weight ", weight.shape());
  const int64_t height = x.size(1) + 2 * padding[0], width = x.size(2) + 2 * padding[1];
  const int64_t reach_h = dilation[0] * (kh - 1) + 1, reach_w = dilation[1] * (kw - 1) + 1;
  CAMO_CHECK(reach_h <= height && reach_w <= width,
             "conv2d: the dilated kernel must fit into the padded input; got kernel ", reach_h, " x ", reach_w,
             ", padded input ", height, " x ", width);
  if (bias.defined()) {
    CAMO_CHECK(bias.shape() == Shape({o}), "conv2d: bias must be [", o, "], the outputs of weight; got bias ",
               bias.shape(), ", weight ", weight.shape());
    CAMO_CHECK(bias.dtype() == x.dtype() && bias.device() == x.device(),
               "conv2d: bias must share dtype and device of x; got bias ", bias.dtype(), " on ", bias.device(), ", x ",
               x.dtype(), " on ", x.device());
  }
  return {.n = x.size(0),
          .h = x.size(1),
          .w = x.size(2),
          .c = c,
          .o = o,
          .kh = kh,
          .kw = kw,
          .oh = (height - reach_h) / stride[0] + 1,
          .ow = (width - reach_w) / stride[1] + 1,
          .stride_h = stride[0],
          .stride_w = stride[1],
          .padding_h = padding[0],
          .padding_w = padding[1],
          .dilation_h = dilation[0],
          .dilation_w = dilation[1],
          .groups = groups};
}

#ifdef CAMO_WITH_CUDA
/// Windows that do not overlap: y is the matrix product of the windows, each a row, and the weight.
Tensor patches(const ConvProblem& p, const Tensor& x, const detail::Operand& weight, const detail::Operand& bias) {
  const Tensor used = slice(slice(x, 1, 0, p.oh * p.kh), 2, 0, p.ow * p.kw);  // the rest of the map is not read
  const Tensor windows = permute(reshape(used, {p.n, p.oh, p.kh, p.ow, p.kw, p.c}), {0, 1, 3, 2, 4, 5});
  const int64_t length = p.kh * p.kw * p.c;
  const Shape matrix{p.o, length};
  return detail::linear(reshape(windows, {p.n, p.oh, p.ow, length}),
                        {reshape(weight.parameter, matrix), reshape(weight.value, matrix)}, bias);
}
#endif

}  // namespace

Tensor conv2d(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in, const Conv2dOptions& options) {
  const Tensor x = detail::autocast_operand(x_in), weight = detail::autocast_parameter(weight_in),
               bias = detail::autocast_parameter(bias_in);
  const ConvProblem problem = checked_problem(x, weight, bias, options);
  if (problem.is_pointwise() && (x.is_cuda() || cpu_kernels() == CpuKernels::fast)) {
    const Shape matrix{problem.o, problem.c};
    return detail::linear(x, {reshape(weight_in, matrix), reshape(weight, matrix)}, {bias_in, bias});
  }
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda() && cuda::chooses_patches(problem)) {
    return patches(problem, x, {weight_in, weight}, {bias_in, bias});
  }
#endif
  const Tensor xc = contiguous(x.detach()), wc = contiguous(weight.detach());
  const Tensor y = forward(problem, xc, wc, bias.defined() ? contiguous(bias.detach()) : bias);
  const Tensors inputs = bias.defined() ? Tensors{x, weight_in, bias_in} : Tensors{x, weight_in};
  if (auto* node = record<Conv2dNode>(y, inputs, problem, weight_in.dtype())) {
    node->x = xc;
    node->weight = wc;
  }
  return y;
}

}  // namespace camo
