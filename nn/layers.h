// Layers with parameters. Maps are [N, H, W, C]. Parameters start as PyTorch's defaults. Constructors throw on numbers
// out of range, calls on shapes and dtypes as their operation does (ops/*.h).
#pragma once

#include <functional>
#include <string>
#include <type_traits>

#include "nn/module.h"
#include "ops/conv2d.h"

namespace camo {

struct LinearSpec {
  int64_t in = 0;
  int64_t out = 0;
  bool bias = true;
};

/// y = x W^T + b over the last axis: [..., in] -> [..., out]. Keys: weight [out, in], bias [out].
class Linear : public Module {
 public:
  explicit Linear(const LinearSpec& spec);
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_, bias_;
};

struct Conv2dSpec {
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;  // zeros on each side
  int64_t dilation = 1;
  int64_t groups = 1;
  bool bias = true;

  /// k x k over each channel alone, keeping the size.
  static Conv2dSpec depthwise(int64_t channels, int64_t kernel, bool bias = true) {
    return {.in = channels, .out = channels, .kernel = kernel, .padding = kernel / 2, .groups = channels, .bias = bias};
  }
};

/// Convolution, [N, H, W, in] -> [N, H', W', out]. Keys: weight (file layout [out, in/groups, k, k]), bias [out].
class Conv2d : public Module {
 public:
  explicit Conv2d(const Conv2dSpec& spec);
  Tensor operator()(const Tensor& x) const;

 private:
  Conv2dOptions options_;
  Tensor weight_, bias_;
};

/// Layer norm over the last axis. Keys: weight, bias [C]. PyTorch's default eps is 1e-5.
class LayerNorm : public Module {
 public:
  explicit LayerNorm(int64_t channels, double eps = 1e-6);
  Tensor operator()(const Tensor& x) const;

 private:
  double eps_;
  Tensor weight_, bias_;
};

/// Batch norm over all axes but the last. Keys: weight, bias, running_mean, running_var [C], num_batches_tracked [].
class BatchNorm2d : public Module {
 public:
  explicit BatchNorm2d(int64_t channels, double eps = 1e-5, double momentum = 0.1);
  Tensor operator()(const Tensor& x) const;

 private:
  double eps_, momentum_;
  Tensor weight_, bias_, running_mean_, running_var_, num_batches_tracked_;
};

/// Drops elements with probability p, in [0, 1), while training (see ops/dropout.h).
class Dropout : public Module {
 public:
  explicit Dropout(double p);
  Tensor operator()(const Tensor& x) const;
  /// For tests that need every draw gone.
  void set_probability(double p) { p_ = p; }

 private:
  double p_;
};

/// A function without parameters as a module: keeps the numbering of Sequential equal to PyTorch's.
class Lambda : public Module {
 public:
  explicit Lambda(std::function<Tensor(const Tensor&)> fn) : fn_(std::move(fn)) {}
  Tensor operator()(const Tensor& x) const { return fn_(x); }

 private:
  std::function<Tensor(const Tensor&)> fn_;
};

/// Modules called one after the other, named "0", "1", ... as PyTorch's nn.Sequential.
class Sequential : public Module {
 public:
  /// Appends a module made from these arguments, that maps a tensor to a tensor.
  template <class M, class... Args>
  requires ModuleFrom<M, Args...> && std::is_invocable_r_v<Tensor, M&, const Tensor&> Sequential& add(Args&&... args) {
    M& module = child<M>(std::to_string(steps_.size()), std::forward<Args>(args)...);
    steps_.push_back([&module](const Tensor& x) { return module(x); });
    return *this;
  }
  /// Appends a function; it takes a number but has no parameters.
  Sequential& add(std::function<Tensor(const Tensor&)> fn) { return add<Lambda>(std::move(fn)); }
  Tensor operator()(const Tensor& x) const {
    Tensor y = x;
    for (const auto& step : steps_) y = step(y);
    return y;
  }

 private:
  std::vector<std::function<Tensor(const Tensor&)>> steps_;
};

}  // namespace camo
