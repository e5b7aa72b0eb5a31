#include "apps/camoxpert/inference.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/autocast.h"
#include "core/error.h"
#include "core/parallel.h"
#include "data/resize_image.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::app {

namespace {

/// [N, S, S, channels] seen another way: out[y, x] = in[walk(y, x)].
Tensor view_of(const Tensor& maps, const Augmentation& view) {
  const auto size = static_cast<int>(maps.size(1));
  const int64_t channels = maps.size(3), pixels = int64_t{size} * size;
  const PixelWalk walk = walk_of(view, size);
  Tensor out = empty(maps.shape(), f32, cpu);
  parallel_for(maps.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* from = maps.data<float>() + n * pixels * channels;
      float* to = out.data<float>() + n * pixels * channels;
      for (int y = 0; y < size; ++y) {
        for (int x = 0; x < size; ++x) {
          std::copy_n(from + (walk.start + y * walk.step_y + x * walk.step_x) * channels, channels, to);
          to += channels;
        }
      }
    }
  });
  return out;
}

/// The other way round: adds `view`'s values to where they come from.
void add_back(std::vector<float>& sum, const Tensor& maps, const Augmentation& view) {
  const auto size = static_cast<int>(maps.size(1));
  const int64_t pixels = int64_t{size} * size;
  const PixelWalk walk = walk_of(view, size);
  const float* from = maps.data<float>();
  for (int64_t n = 0; n < maps.size(0); ++n)
    for (int y = 0; y < size; ++y)
      for (int x = 0; x < size; ++x)
        sum[static_cast<size_t>(n * pixels + walk.start + y * walk.step_y + x * walk.step_x)] += *from++;
}

}  // namespace

Image ProbabilityMap::to_image() const {
  Image image(width, height, 1);
  for (size_t i = 0; i < values.size(); ++i) {
    CAMO_CHECK_CODE(not_finite, std::isfinite(values[i]), "predict: the network's output is not finite at pixel ", i,
                    "; the checkpoint is of a run that diverged");
    image.pixels[i] = static_cast<uint8_t>(std::lround(std::clamp(values[i], 0.0f, 1.0f) * 255));
  }
  return image;
}

TestTimeAugmentation TestTimeAugmentation::parse(const std::string& text) {
  TestTimeAugmentation augmentation;
  for (size_t begin = 0; begin <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    begin = end + 1;
    if (part == "flip") {
      augmentation.flip = true;
    } else if (part == "rotate") {
      augmentation.rotate = true;
    } else {
      double scale = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), scale);
      CAMO_CHECK_CODE(
          usage, parsed.ec == std::errc() && parsed.ptr == part.data() + part.size() && scale >= 0.25 && scale <= 4,
          "--tta: must be parts joined with ',': flip, rotate, or scales within 0.25 and 4; got '", part, "' in ",
          text);
      auto& scales = augmentation.scales;
      if (std::find(scales.begin(), scales.end(), scale) == scales.end()) scales.push_back(scale);
    }
  }
  return augmentation;
}

std::vector<Augmentation> TestTimeAugmentation::views() const {
  std::vector<Augmentation> views;
  for (int turns = 0; turns < (rotate ? 4 : 1); ++turns)
    for (int flipped = 0; flipped < (flip ? 2 : 1); ++flipped) views.push_back({flipped == 1, turns});
  return views;
}

Predictor::Predictor(const CamoXpert& network, int img_size, TestTimeAugmentation augmentation, DType autocast,
                     CudaGraphs graphs)
    : network_(network),
      run_(network, graphs),
      img_size_(img_size),
      augmentation_(std::move(augmentation)),
      autocast_(autocast) {
  for (auto& counts : usage_) counts.assign(static_cast<size_t>(network.spec().num_experts), 0);
}

void Predictor::add_scale(const std::vector<const Image*>& pictures, int size, std::vector<ProbabilityMap>& maps) {
  const auto count = static_cast<int64_t>(pictures.size());
  Tensors inputs(pictures.size());
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    const NoGrad no_grad;
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      inputs[i] = to_network_input(*pictures[i], size);
    }
  });
  const Tensor input = concat(inputs, 0);
  const Device device = network_.parameters().front().device();
  const int64_t pixels = int64_t{size} * size;
  std::vector<float> sum(static_cast<size_t>(count * pixels));
  for (const Augmentation& view : augmentation_.views()) {
    const Tensor seen = view == Augmentation{} ? input : view_of(input, view);
    const Tensor logits = [&] {
      const Autocast precision(autocast_);
      return run_(to(seen, device));
    }();
    add_back(sum, contiguous(to(sigmoid(to(logits, f32)), cpu)), view);  // [N, S, S, 1]
    const std::array<RoutingReport, 4>& routing = run_.routing();
    for (size_t stage = 0; stage < usage_.size(); ++stage)
      for (size_t e = 0; e < usage_[stage].size(); ++e) usage_[stage][e] += routing[stage].counts[e];
  }
  const auto share = 1.0f / static_cast<float>(augmentation_.passes());
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const float* map = sum.data() + static_cast<int64_t>(i) * pixels;
      const auto resized = resize_bilinear(map, size, size, maps[i].width, maps[i].height);
      for (size_t p = 0; p < resized.size(); ++p) maps[i].values[p] += share * resized[p];
    }
  });
}

std::vector<ProbabilityMap> Predictor::operator()(const std::vector<const Image*>& pictures) {
  const NoGrad no_grad;
  std::vector<ProbabilityMap> maps;
  for (const Image* picture : pictures) {
    const size_t pixels = static_cast<size_t>(picture->width) * static_cast<size_t>(picture->height);
    maps.push_back({picture->width, picture->height, std::vector<float>(pixels)});
  }
  if (pictures.empty()) return maps;
  for (const double scale : augmentation_.scales) {
    // The network needs at least 32 pixels a side.
    add_scale(pictures, std::max(32, static_cast<int>(std::lround(img_size_ * scale))), maps);
  }
  return maps;
}

Image overlay(const Image& picture, const ProbabilityMap& probabilities) {
  constexpr float kTint[3] = {255, 32, 32};
  Image result = picture;
  for (size_t i = 0; i < probabilities.values.size(); ++i) {
    const float weight = 0.6f * std::clamp(probabilities.values[i], 0.0f, 1.0f);
    for (size_t c = 0; c < 3; ++c) {
      uint8_t& pixel = result.pixels[i * 3 + c];
      pixel = static_cast<uint8_t>(std::lround(static_cast<float>(pixel) * (1 - weight) + kTint[c] * weight));
    }
  }
  return result;
}

}  // namespace camo::app
