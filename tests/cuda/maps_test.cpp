// Pools and resizing on CUDA at the network's sizes, in every dtype, against the CPU in f64.
#include <vector>

#include "ops/pool.h"
#include "ops/resize.h"
#include "tests/cuda/cuda_cases.h"

namespace camo {
namespace {

using test::cuda_tolerance;
using test::expect_gpu_agrees;
using test::uniform;

class CudaMaps : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << why_no_cuda();
  }
};

struct Case {
  const char* name;
  Shape x;
  std::function<Tensor(const Tensor&)> fn;
};

void expect_all_dtypes(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    for (const DType dtype : {f32, f64, f16, bf16}) {
      for (const int64_t shift : {0, 1}) {
        SCOPED_TRACE(c.name);
        const auto fn = [&c](const Tensors& in) { return c.fn(in[0]); };
        EXPECT_NO_THROW(expect_gpu_agrees(fn, {uniform(c.x)}, dtype, cuda_tolerance(dtype), shift));
      }
    }
  }
}

Case average(const char* name, const Shape& x, int64_t kernel) {
  return {name, x, [kernel](const Tensor& t) {
            return avg_pool2d(t, {.kernel = {kernel, kernel}, .stride = {1, 1}, .padding = {kernel / 2, kernel / 2}});
          }};
}
Case adaptive(const char* name, const Shape& x, int64_t size) {
  return {name, x, [size](const Tensor& t) { return adaptive_avg_pool2d(t, size, size); }};
}
Case resized(const char* name, const Shape& x, int64_t height, int64_t width) {
  return {name, x, [=](const Tensor& t) { return resize_bilinear(t, height, width); }};
}

TEST_F(CudaMaps, AveragePools) {
  expect_all_dtypes({average("3x3, 80 channels", {2, 48, 48, 80}, 3),
                     average("5x5, 24 channels", {2, 24, 24, 24}, 5),
                     average("3x3, 73 channels", {1, 11, 13, 73}, 3),
                     average("5x5, one channel", {2, 33, 35, 1}, 5),
                     adaptive("to 8x8", {2, 48, 48, 88}, 8),
                     adaptive("to 4x4", {2, 48, 48, 18}, 4),
                     adaptive("to 2x2, uneven", {2, 25, 27, 10}, 2),
                     adaptive("to 1x1", {2, 96, 96, 73}, 1),
                     {"global", {2, 96, 96, 80}, [](const Tensor& t) { return global_avg_pool2d(t); }},
                     {"global, one channel", {2, 40, 40, 1}, [](const Tensor& t) { return global_avg_pool2d(t); }}});
}

TEST_F(CudaMaps, MaximumPools) {
  expect_all_dtypes({
      {"3x3/2",
       {2, 25, 24, 18},
       [](const Tensor& t) {
         return max_pool2d(t, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
       }},
      {"2x3",
       {1, 12, 13, 7},
       [](const Tensor& t) {
         return max_pool2d(t, {.kernel = {2, 3}});
       }},
      {"global", {2, 48, 48, 88}, [](const Tensor& t) { return global_max_pool2d(t); }},
      {"global, odd", {3, 17, 19, 5}, [](const Tensor& t) { return global_max_pool2d(t); }},
  });
}

TEST_F(CudaMaps, Resizing) {
  expect_all_dtypes({resized("24 to 48, 80 channels", {2, 24, 24, 80}, 48, 48),
                     resized("12 to 96, 10 channels", {1, 12, 12, 10}, 96, 96),
                     resized("12 to 24, 73 channels", {1, 12, 12, 73}, 24, 24),
                     resized("48 to 384, one channel", {2, 48, 48, 1}, 384, 384),
                     resized("384 to 96, one channel", {1, 384, 384, 1}, 96, 96),
                     resized("odd sizes, three channels", {2, 31, 17, 3}, 13, 45)});
}

}  // namespace
}  // namespace camo
