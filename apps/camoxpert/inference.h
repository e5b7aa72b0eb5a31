// Running a trained network over pictures.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "data/image.h"
#include "data/transforms.h"
#include "models/camoxpert/inference_runner.h"

namespace camo::app {

/// Foreground probabilities of one picture at a size of the caller's choice.
struct ProbabilityMap {
  int width = 0, height = 0;
  std::vector<float> values;  // height * width, in [0, 1]

  /// Rounded to 0..255. Throws ErrorCode::not_finite.
  Image to_image() const;
};

/// Test-time augmentation: the network sees every picture at several sizes, mirrored and turned, and the probabilities
/// are averaged.
struct TestTimeAugmentation {
  std::vector<double> scales = {1};  // of the side that the network sees
  bool flip = false;
  bool rotate = false;  // by all quarter turns

  /// Parts joined with ',': flip, rotate, and scales such as 0.75 (1 is always among them). "flip,0.75,1.25" is four
  /// passes more than none. Throws ErrorCode::usage.
  static TestTimeAugmentation parse(const std::string& text);
  /// The views of one scale.
  std::vector<Augmentation> views() const;
  int64_t passes() const { return static_cast<int64_t>(scales.size() * views().size()); }
};
/// What --tta alone stands for.
inline constexpr const char* kDefaultTta = "flip,0.75,1.25";

/// How often each expert of each stage was chosen.
using ExpertUsage = std::array<std::vector<int64_t>, 4>;

class Predictor {
 public:
  /// The network sees squares of `img_size` pixels a side, on its own device; it must be in evaluation mode. `autocast`
  /// is the dtype of its products.
  Predictor(const CamoXpert& network, int img_size, TestTimeAugmentation augmentation = {}, DType autocast = f32,
            CudaGraphs graphs = CudaGraphs::off);

  /// One map a picture, at the picture's own size.
  std::vector<ProbabilityMap> operator()(const std::vector<const Image*>& pictures);
  /// Over all passes so far.
  const ExpertUsage& usage() const { return usage_; }

 private:
  void add_scale(const std::vector<const Image*>& pictures, int size, std::vector<ProbabilityMap>& maps);

  const CamoXpert& network_;
  InferenceRunner run_;
  int img_size_;
  TestTimeAugmentation augmentation_;
  DType autocast_;
  ExpertUsage usage_;
};

/// The picture with the predicted object tinted red, by its probability.
Image overlay(const Image& picture, const ProbabilityMap& probabilities);

}  // namespace camo::app
