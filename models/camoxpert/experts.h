// The seven experts of CamoXpert. Each maps [N, H, W, C] to the same shape and adds its input.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "nn/layers.h"

namespace camo {

class Expert : public Module {
 public:
  virtual Tensor operator()(const Tensor& x) const = 0;

 protected:
  /// A child of 1x1 convolution, layer norm and GELU, numbered 0, 1, 2.
  Sequential& unit(const std::string& name, int64_t in, int64_t out);
};

/// Dilated 3x3 convolutions with dilation 1 to 4.
class TextureExpert : public Expert {
 public:
  explicit TextureExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  std::array<Sequential*, 4> branches_;
  Sequential& fusion_;
};

/// Multi-head softmax attention over all pixels. Without flash attention it makes the matrix of scores.
class SDTAEncoder : public Module {
 public:
  SDTAEncoder(int64_t channels, int64_t heads, double dropout, bool use_flash_attention = true);
  Tensor operator()(const Tensor& x) const;

 private:
  int64_t heads_;
  bool use_flash_attention_;
  Conv2d& qkv_;
  Conv2d& proj_;
  Dropout& dropout_;
};

class AttentionExpert : public Expert {
 public:
  /// Throws when the heads do not divide the channels.
  AttentionExpert(int64_t channels, int64_t heads, double dropout, bool use_flash_attention = true);
  Tensor operator()(const Tensor& x) const override { return attention_(x); }

 private:
  SDTAEncoder& attention_;
};

/// A local branch weighted by a channel gate of the whole map.
class HybridExpert : public Expert {
 public:
  explicit HybridExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  Sequential& local_branch_;
  Sequential& global_branch_;
  Conv2d& fusion_;
};

/// Low, middle and high frequencies by differences of box filters.
class FrequencyExpert : public Expert {
 public:
  explicit FrequencyExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  Sequential& low_;
  Sequential& mid_;
  Sequential& high_;
  Sequential& spatial_;
  Sequential& fusion_;
};

/// Sobel, Laplacian and their joint magnitude. Checkpoints carry the three kernels as buffers; the filters compute with
/// the fixed kernels, so a checkpoint with other kernels is refused (ErrorCode::checkpoint) at the next forward pass.
class EdgeExpert : public Expert {
 public:
  explicit EdgeExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  struct Kernel {
    Tensor values;                              // [1, 1, 3, 3]
    mutable std::shared_ptr<Storage> verified;  // the storage and version that were last compared
    mutable uint64_t version = 0;
  };
  void verify_kernels() const;

  std::array<Kernel, 3> kernels_;
  mutable std::mutex mutex_;  // of what was verified
  Sequential& sobel_;
  Sequential& laplacian_;
  Sequential& gradient_;
  Sequential& spatial_;
  Sequential& fusion_;
};

/// Averages on 8x8, 4x4, 2x2 and 1x1 grids, brought back to full size.
class SemanticContextExpert : public Expert {
 public:
  explicit SemanticContextExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  std::array<Sequential*, 4> branches_;
  Sequential& fusion_;
};

/// A depthwise and a pointwise convolution with layer norms.
class ContrastExpert : public Expert {
 public:
  explicit ContrastExpert(int64_t channels);
  Tensor operator()(const Tensor& x) const override;

 private:
  Sequential& local_contrast_;
  Sequential& fusion_;
};

inline constexpr std::array<std::string_view, 7> kExpertNames{"texture", "attention", "hybrid",  "frequency",
                                                              "edge",    "semantic",  "contrast"};

/// The expert at position `index` of a mixture: the seven types in order, repeating.
std::shared_ptr<Expert> make_expert(int64_t index, int64_t channels, int64_t attention_heads, double dropout,
                                    bool use_flash_attention = true);

}  // namespace camo
