#include "ops/resize.h"

#include <string>

#include "core/parallel.h"
#include "core/safetensors.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

const SafeTensors& recorded() {
  static const SafeTensors file =
      read_safetensors(std::string(CAMO_SOURCE_DIR) + "/tests/golden/ops/resize.safetensors");
  return file;
}

TEST(ResizeBilinear, HandComputedTwiceTheSize) {
  const Tensor x = from_vector<double>({0, 4}, {1, 1, 2, 1});
  EXPECT_TRUE(bitwise_equal(resize_bilinear(x, 1, 4), from_vector<double>({0, 1, 3, 4}, {1, 1, 4, 1})));
  EXPECT_TRUE(bitwise_equal(resize_bilinear(full({1, 1, 1, 2}, 3, f64), 2, 3), full({1, 2, 3, 2}, 3, f64)));
}

TEST(ResizeBilinear, MatchesPyTorch) {
  int count = 0;
  for (const auto& [name, tensor] : recorded().tensors) {
    if (!name.starts_with("resize.") || !name.ends_with(".x")) continue;
    SCOPED_TRACE(name);
    const std::string prefix = name.substr(0, name.size() - 1);
    for (DType dtype : {f64, f32}) {
      const auto at = [&](const char* what) { return to(to(recorded().at(prefix + what), dtype), default_device()); };
      const double tolerance = dtype == f64 ? 1e-14 : 1e-6;
      const Tensor x = clone(at("x")).set_requires_grad(true);
      const Tensor expected = at("y"), y = resize_bilinear(x, expected.size(1), expected.size(2));
      EXPECT_TRUE(all_close(y, expected, tolerance));
      backward(y, at("dy"));
      EXPECT_TRUE(all_close(x.grad(), at("dx"), tolerance));
    }
    ++count;
  }
  EXPECT_EQ(count, 7);
}

TEST(ResizeBilinear, MatchesOpenCv) {
  int count = 0;
  for (const auto& [name, x] : recorded().tensors) {
    if (!name.starts_with("opencv.") || !name.ends_with(".x")) continue;
    SCOPED_TRACE(name);
    const Tensor& expected = recorded().at(name.substr(0, name.size() - 1) + "y");
    EXPECT_TRUE(
        all_close(resize_bilinear(to(x, default_device()), expected.size(1), expected.size(2)), expected, 2e-6));
    ++count;
  }
  EXPECT_EQ(count, 3);
}

TEST(ResizeBilinear, SameSizeIsTheInput) {
  const Tensor x = uniform({1, 3, 4, 2});
  EXPECT_TRUE(resize_bilinear(x, 3, 4).same_as(x));
}

TEST(ResizeBilinear, StridedAndEmptyInputs) {
  const Tensor x = uniform({2, 5, 6, 3});
  const Tensor view = permute(clone(permute(x, {0, 3, 1, 2})), {0, 2, 3, 1});
  EXPECT_TRUE(bitwise_equal(resize_bilinear(view, 10, 12), resize_bilinear(x, 10, 12)));
  EXPECT_EQ(resize_bilinear(zeros({0, 4, 6, 3}), 8, 9).shape(), Shape({0, 8, 9, 3}));
}

TEST(ResizeBilinear, DoesNotDependOnThreads) {
  const Tensor x = uniform({1, 40, 30, 16}, f32).set_requires_grad(true), dy = uniform({1, 80, 60, 16}, f32);
  const auto all = [&] {
    x.set_grad({});
    const Tensor y = resize_bilinear(x, 80, 60);
    backward(y, dy);
    return Tensors{y.detach(), clone(x.grad())};
  };
  const int before = num_threads();
  set_num_threads(1);
  const Tensors one = all();
  set_num_threads(3);
  const Tensors three = all();
  set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], three[i])) << "result " << i;
}

TEST(ResizeBilinear, RejectsWrongArguments) {
  const Tensor x = zeros({1, 4, 4, 2});
  EXPECT_ERROR(resize_bilinear(zeros({4, 4, 2}), 2, 2), "resize_bilinear: x must be [N, H, W, C]; got [4, 4, 2]");
  EXPECT_ERROR(resize_bilinear(x, 0, 2), "resize_bilinear: the new size must be at least 1 x 1; got 0 x 2");
  EXPECT_ERROR(resize_bilinear(zeros({1, 0, 4, 2}), 2, 2), "resize_bilinear: x must not have an empty height or width");
  EXPECT_ERROR(resize_bilinear(zeros({1, 4, 4, 2}, u8), 2, 2), "resize_bilinear: computes in f");
}

}  // namespace
}  // namespace camo
