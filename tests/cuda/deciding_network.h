// A small network whose gates send pictures to different experts, and such pictures.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/camoxpert/network.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo::test {

/// Its gates tell pictures apart; those of a fresh network send all to the same experts.
inline std::unique_ptr<CamoXpert> deciding_network() {
  auto network = std::make_unique<CamoXpert>(CamoXpertSpec{.backbone = "edgenext_xx_small"});
  network->to(kGpu, f32);
  network->eval();
  for (const NamedTensor& named : network->named_parameters()) {
    const bool of_gate = named.name.find(".gate.") != std::string::npos && named.name.ends_with("weight");
    if (of_gate) copy_into(named.tensor, mul(named.tensor.detach(), 4.0));
  }
  return network;
}

/// Checkered in one colour, with noise; every number looks different.
inline Tensor pictures(int64_t batch, int number) {
  const int64_t size = 64;
  std::vector<float> values = to(uniform({batch, size, size, 3}, f32, -0.3, 0.3), cpu).to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    const auto channel = static_cast<int>(i % 3), x = static_cast<int>(i / 3 % 64), y = static_cast<int>(i / 192 % 64);
    const int kind = number + static_cast<int>(i / (192 * 64));
    const int cell = (x >> (kind % 5)) + y / 8;
    values[i] += static_cast<float>((channel == kind % 3 ? 1 : -1) + cell % 2);
  }
  return from_vector(values, {batch, size, size, 3}, kGpu);
}

}  // namespace camo::test
