// Pooling as layers, for Sequential. Maps are [N, H, W, C].
#pragma once

#include "nn/module.h"
#include "ops/pool.h"

namespace camo {

class AvgPool2d : public Module {
 public:
  explicit AvgPool2d(const Pool2dOptions& options) : options_(options) {}
  Tensor operator()(const Tensor& x) const { return avg_pool2d(x, options_); }

 private:
  Pool2dOptions options_;
};

class MaxPool2d : public Module {
 public:
  explicit MaxPool2d(const Pool2dOptions& options) : options_(options) {}
  Tensor operator()(const Tensor& x) const { return max_pool2d(x, options_); }

 private:
  Pool2dOptions options_;
};

/// Means over a grid of height x width windows.
class AdaptiveAvgPool2d : public Module {
 public:
  AdaptiveAvgPool2d(int64_t height, int64_t width) : height_(height), width_(width) {}
  Tensor operator()(const Tensor& x) const { return adaptive_avg_pool2d(x, height_, width_); }

 private:
  int64_t height_, width_;
};

}  // namespace camo
