// EdgeNeXt as a feature extractor (arXiv:2206.10589).
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "models/edgenext/blocks.h"
#include "models/edgenext/spec.h"

namespace camo {

/// One stage: an optional downsampling by 2 (layer norm, 2x2 convolution) and its blocks.
class EdgeNeXtStage : public Module {
 public:
  EdgeNeXtStage(const EdgeNeXtSpec& spec, int index);
  Tensor operator()(const Tensor& x) const;
  /// Keep only the input of each block for backward, and run the block again there.
  void set_gradient_checkpointing(bool on) { checkpointing_ = on; }

 private:
  /// The blocks under the names "0", "1", ...
  class Blocks : public Module {
   public:
    template <class Block, class... Args>
    void append(Args&&... args) {
      Block& block = child<Block>(std::to_string(steps.size()), std::forward<Args>(args)...);
      steps.push_back([&block](const Tensor& x) { return block(x); });
    }
    std::vector<std::function<Tensor(const Tensor&)>> steps;
  };

  Sequential* downsample_;  // null in the first stage
  Blocks& blocks_;
  bool checkpointing_ = false;
};

/// Four feature maps, at strides 4, 8, 16 and 32. Weights of convolutions and linear layers start as a truncated normal
/// with deviation 0.02, their biases at 0.
class EdgeNeXt : public Module {
 public:
  explicit EdgeNeXt(const EdgeNeXtSpec& spec);
  /// x [N, H, W, 3], H and W at least 32.
  std::array<Tensor, 4> operator()(const Tensor& x) const;
  /// The parts that operator() is made of: the stages one after the other on what the stem leaves.
  Tensor stem(const Tensor& x) const;
  const EdgeNeXtStage& stage(size_t s) const { return *stages_[s]; }
  const EdgeNeXtSpec& spec() const { return spec_; }
  void set_gradient_checkpointing(bool on);

 private:
  EdgeNeXtSpec spec_;
  Conv2d& stem_0_;
  LayerNorm& stem_1_;
  std::array<EdgeNeXtStage*, 4> stages_;
};

}  // namespace camo
