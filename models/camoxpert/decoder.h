// One step of the decoder.
#pragma once

#include "nn/layers.h"

namespace camo {

struct DecoderSpec {
  int64_t in = 0;
  int64_t skip = 0;  // channels of the skip map; 0: there is none
  int64_t out = 0;
};

/// Upsamples by 2 (then to the skip's size where that differs), joins the skip map, and convolves twice with batch
/// norm.
class DecoderBlock : public Module {
 public:
  explicit DecoderBlock(const DecoderSpec& spec);
  /// x [N, H, W, in], skip [N, H', W', skip] or undefined -> [N, H', W', out] or [N, 2H, 2W, out].
  Tensor operator()(const Tensor& x, const Tensor& skip = {}) const;

 private:
  DecoderSpec spec_;
  Sequential& conv_;
};

}  // namespace camo
