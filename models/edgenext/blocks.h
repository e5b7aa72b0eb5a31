// The blocks of EdgeNeXt (arXiv:2206.10589). Maps are [N, H, W, C].
#pragma once

#include <cstdint>
#include <mutex>

#include "nn/layers.h"

namespace camo {

/// fc2(gelu(fc1(x))) with 4 C hidden channels.
class Mlp : public Module {
 public:
  explicit Mlp(int64_t channels);
  Tensor operator()(const Tensor& x) const;

 private:
  Linear& fc1_;
  Linear& fc2_;
};

/// x + gamma * mlp(norm(conv_dw(x))).
class ConvBlock : public Module {
 public:
  ConvBlock(int64_t channels, int64_t kernel);
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor gamma_;
  Conv2d& conv_dw_;
  LayerNorm& norm_;
  Mlp& mlp_;
};

/// Cross-covariance attention (arXiv:2106.09681): per head, channels attend to channels over tokens [B, L, C].
class CrossCovarianceAttention : public Module {
 public:
  /// Throws when the heads do not divide the channels.
  CrossCovarianceAttention(int64_t channels, int64_t heads);
  Tensor operator()(const Tensor& tokens) const;

 private:
  int64_t heads_;
  Tensor temperature_;  // [heads, 1, 1]
  Linear& qkv_;
  Linear& proj_;
};

/// Sines and cosines of the pixel position, 32 channels for y and 32 for x, projected to C channels.
class FourierPositions : public Module {
 public:
  explicit FourierPositions(int64_t channels);
  /// [1, height, width, C]
  Tensor operator()(int64_t height, int64_t width) const;

 private:
  Conv2d& token_projection_;
  Tensor weight_;             // token_projection's, for its dtype and device
  mutable Tensor encoding_;   // of the last size, dtype and device: [1, H, W, 64]
  mutable std::mutex mutex_;  // of encoding_
};

struct SplitTransposeSpec {
  int64_t channels = 0;
  int64_t splits = 2;  // channel parts; the last one is passed on unchanged
  int64_t heads = 4;
  bool positions = false;
};

/// Depthwise convolutions in a cascade over channel parts (Res2Net), cross-covariance attention, MLP.
class SplitTransposeBlock : public Module {
 public:
  explicit SplitTransposeBlock(const SplitTransposeSpec& spec);
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor cascade(const Tensor& x) const;

  Tensor gamma_xca_, gamma_;
  ModuleList<Conv2d>& convs_;
  FourierPositions* pos_embd_;  // may be null
  LayerNorm& norm_xca_;
  CrossCovarianceAttention& xca_;
  LayerNorm& norm_;
  Mlp& mlp_;
};

/// The plain encoding [1, height, width, 64] of FourierPositions. Angles and values are rounded to float as in the
/// published network, whatever the dtype.
Tensor fourier_encoding(int64_t height, int64_t width, DType dtype, Device device = cpu);

}  // namespace camo
