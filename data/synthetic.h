// Procedural camouflage: textured scenes with one or two objects that carry the scene's own texture, and their masks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/dataset.h"

namespace camo {

struct SyntheticOptions {
  int width = 256;
  int height = 256;
  uint64_t seed = 0;
  /// Strength of what gives the objects away besides their texture's other direction and grain: tone, shading, contour
  /// and shadow. 0: nothing else; 1: as in a good photograph.
  double cue = 1;
};

/// Picture and mask (0 or 255) number `index`: a pure function of (options, index). Scenes look the same at every size.
LoadedSample make_synthetic_sample(const SyntheticOptions& options, int64_t index);

struct SyntheticDatasetOptions {
  std::filesystem::path folder;  // Train/{Imgs,GT} and Test/{Imgs,GT} are made in it
  int64_t train_count = 400;
  int64_t test_count = 100;
  bool jpeg = true;  // pictures as JPEG rather than PNG; masks are PNG
  SyntheticOptions scene = {};
};

/// Writes the files and calls progress(done, all) after each pair, from several threads but one at a time. Throws
/// ErrorCode::data when the folder has Train or Test already, and ErrorCode::usage on counts or sizes out of range.
void write_synthetic_dataset(const SyntheticDatasetOptions& options,
                             const std::function<void(int64_t done, int64_t all)>& progress = {});

}  // namespace camo
