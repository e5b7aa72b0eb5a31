// How attention is computed in each stage of the network, for reports.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "models/camoxpert/network.h"

namespace camo::app {

/// The attention expert of one stage.
struct StageAttention {
  int64_t tokens = 0, heads = 0, width = 0;  // width: channels of a head
  std::string kernel;
  std::string why_math;  // empty for flash
};
std::array<StageAttention, 4> attention_stages(const CamoXpertSpec& network, int64_t img_size, Device device,
                                               DType dtype);

/// Lines: whether flash attention is on and why not where it is off, and the kernel of each stage.
std::vector<std::string> attention_report(const CamoXpertSpec& network, int64_t img_size, Device device, DType dtype);

}  // namespace camo::app
