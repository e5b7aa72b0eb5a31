// The EdgeNeXt variants (Maaz et al., arXiv:2206.10589) in one table.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace camo {

struct EdgeNeXtSpec {
  std::string_view name;
  std::array<int64_t, 4> depths;  // blocks per stage
  std::array<int64_t, 4> dims;    // channels per stage
  int64_t heads;                  // of the cross-covariance attention
};

inline constexpr std::array<EdgeNeXtSpec, 4> kEdgeNeXtVariants{{
    {"edgenext_xx_small", {2, 2, 6, 2}, {24, 48, 88, 168}, 4},
    {"edgenext_x_small", {3, 3, 9, 3}, {32, 64, 100, 192}, 4},
    {"edgenext_small", {3, 3, 9, 3}, {48, 96, 160, 304}, 8},
    {"edgenext_base", {3, 3, 9, 3}, {80, 160, 288, 584}, 8},
}};

/// What one stage is made of, the same in every variant.
struct EdgeNeXtStageSpec {
  int64_t kernel;      // of the depthwise convolutions in its ConvBlocks
  int64_t splits;      // channel parts of its SplitTransposeBlock
  bool has_attention;  // whether its last block is a SplitTransposeBlock
  bool has_positions;  // whether that block adds a positional encoding
};

inline constexpr std::array<EdgeNeXtStageSpec, 4> kEdgeNeXtStages{{
    {3, 2, false, false},
    {5, 2, true, true},
    {7, 3, true, false},
    {9, 4, true, false},
}};

/// The variant of this name. Throws ErrorCode::usage listing the known ones.
const EdgeNeXtSpec& edgenext_spec(std::string_view name);

}  // namespace camo
