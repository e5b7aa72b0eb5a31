#include <cmath>
#include <vector>

#include "models/camoxpert/experts.h"
#include "models/camoxpert/maps.h"
#include "ops/ops.h"

namespace camo {
namespace {

constexpr double kMagnitudeFloor = 1e-8;

struct NamedKernel {
  const char* name;
  std::array<float, 9> values;
};
constexpr std::array<NamedKernel, 3> kKernels{{
    {"sobel_x", {-1, 0, 1, -2, 0, 2, -1, 0, 1}},
    {"sobel_y", {-1, -2, -1, 0, 0, 0, 1, 2, 1}},
    {"laplacian", {0, 1, 0, 1, -4, 1, 0, 1, 0}},
}};

// Averaged weights carry the kernels through many roundings; any other kernel differs by far more.
constexpr float kKernelTolerance = 1e-2f;

}  // namespace

EdgeExpert::EdgeExpert(int64_t channels)
    : kernels_([&] {
        std::array<Kernel, 3> kernels;
        for (size_t i = 0; i < kernels.size(); ++i) {
          const std::vector<float> values(kKernels[i].values.begin(), kKernels[i].values.end());
          kernels[i].values = buffer(kKernels[i].name, from_vector(values, {1, 1, 3, 3}));
        }
        return kernels;
      }()),
      sobel_(unit("sobel_branch", channels, quarter_of(channels, "edge expert"))),
      laplacian_(unit("laplacian_branch", channels, channels / 4)),
      gradient_(unit("gradient_branch", channels, channels / 4)),
      spatial_(unit("spatial_branch", channels, channels / 4)),
      fusion_(unit("fusion", channels, channels)) {}

void EdgeExpert::verify_kernels() const {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < kernels_.size(); ++i) {
    const Kernel& kernel = kernels_[i];
    const std::shared_ptr<Storage>& storage = kernel.values.storage();
    if (kernel.verified == storage && kernel.version == storage->version()) continue;
    const std::vector<float> values = kernel.values.to_vector<float>();
    for (size_t j = 0; j < values.size(); ++j) {
      CAMO_CHECK_CODE(checkpoint, std::abs(values[j] - kKernels[i].values[j]) <= kKernelTolerance,
                      "edge expert: buffer ", kKernels[i].name, " must hold the fixed kernel; element ", j, " is ",
                      values[j], ", expected ", kKernels[i].values[j], "; the checkpoint is of another network");
    }
    kernel.verified = storage;
    kernel.version = storage->version();
  }
}

Tensor EdgeExpert::operator()(const Tensor& x) const {
  verify_kernels();
  const Tensor sobel = edge_magnitude(x, kMagnitudeFloor);
  const Tensor curvature = abs(laplacian(x));
  const auto wide = [](const Tensor& map) { return map.dtype() == f16 ? camo::to(map, f32) : map; };  // f16 has no 1e-8
  const Tensor gradient = camo::to(sqrt(square(wide(sobel)) + square(wide(curvature)) + kMagnitudeFloor), x.dtype());
  return fusion_(concat({sobel_(sobel), laplacian_(curvature), gradient_(gradient), spatial_(x)}, 3)) + x;
}

}  // namespace camo
