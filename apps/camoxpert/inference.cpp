#include "apps/camoxpert/inference.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "data/resize_image.h"
#include "data/transforms.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::app {

Image ProbabilityMap::to_image() const {
  Image image(width, height, 1);
  for (size_t i = 0; i < values.size(); ++i) {
    CAMO_CHECK_CODE(not_finite, std::isfinite(values[i]), "predict: the network's output is not finite at pixel ", i,
                    "; the checkpoint is of a run that diverged");
    image.pixels[i] = static_cast<uint8_t>(std::lround(std::clamp(values[i], 0.0f, 1.0f) * 255));
  }
  return image;
}

std::vector<ProbabilityMap> predict(const CamoXpert& network, const std::vector<Image>& pictures, int img_size) {
  const auto count = static_cast<int64_t>(pictures.size());
  const NoGrad no_grad;
  Tensors inputs(pictures.size());
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NoGrad no_grad_here;
      inputs[static_cast<size_t>(i)] = to_network_input(pictures[static_cast<size_t>(i)], img_size);
    }
  });
  const Device device = network.parameters().front().device();
  const Tensor input = to(concat(inputs, 0), device);
  const Tensor probabilities = contiguous(to(sigmoid(network(input).logits), cpu));  // [N, S, S, 1]
  std::vector<ProbabilityMap> maps(pictures.size());
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Image& picture = pictures[static_cast<size_t>(i)];
      const float* map = probabilities.data<float>() + i * img_size * img_size;
      maps[static_cast<size_t>(i)] = {picture.width, picture.height,
                                      resize_bilinear(map, img_size, img_size, picture.width, picture.height)};
    }
  });
  return maps;
}

void for_batches(int64_t total, int64_t batch_size, const std::function<void(int64_t, int64_t)>& visit) {
  for (int64_t first = 0; first < total; first += batch_size) visit(first, std::min(batch_size, total - first));
}

Image overlay(const Image& picture, const ProbabilityMap& probabilities) {
  constexpr float kTint[3] = {255, 32, 32};
  Image result = picture;
  for (size_t i = 0; i < probabilities.values.size(); ++i) {
    const float weight = 0.6f * probabilities.values[i];
    for (size_t c = 0; c < 3; ++c) {
      uint8_t& pixel = result.pixels[i * 3 + c];
      pixel = static_cast<uint8_t>(std::lround(static_cast<float>(pixel) * (1 - weight) + kTint[c] * weight));
    }
  }
  return result;
}

}  // namespace camo::app
