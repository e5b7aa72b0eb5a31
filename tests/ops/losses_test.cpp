#include "ops/losses.h"

#include <cmath>

#include "ops/detail/gaussian_blur.h"
#include "ops/elementwise.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

struct NamedLoss {
  const char* name;
  std::function<Tensor(const Tensor&, const Tensor&)> fn;
};

std::vector<NamedLoss> losses() {
  return {{"bce_with_logits", bce_with_logits},
          {"iou_loss", [](const Tensor& x, const Tensor& t) { return iou_loss(x, t); }},
          {"dice_loss", [](const Tensor& x, const Tensor& t) { return dice_loss(x, t); }},
          {"edge_loss", [](const Tensor& x, const Tensor& t) { return edge_loss(x, t); }},
          {"global_ssim_loss", global_ssim_loss},
          {"windowed_ssim_loss", [](const Tensor& x, const Tensor& t) { return windowed_ssim_loss(x, t); }}};
}

std::vector<NamedLoss> region_losses() {
  auto all = losses();
  all.erase(all.begin());
  return all;
}

TEST(Losses, AgreeWithPyTorch) {
  Fixture("bce_with_logits").check({"input", "target"}, [](const Tensors& in) {
    return bce_with_logits(in[0], in[1]);
  });
  for (const NamedLoss& loss : region_losses()) {
    Fixture(loss.name).check({"x", "t"}, [&](const Tensors& in) { return loss.fn(in[0], in[1]); });
  }
}

TEST(Losses, EdgeOperatorsAgreeWithPyTorch) {
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"sobel_x", sobel_x}, {"sobel_y", sobel_y}, {"laplacian", laplacian}, {"edge_magnitude", [](const Tensor& x) {
                                                                               return edge_magnitude(x, 1e-8);
                                                                             }}};
  for (const auto& [name, op] : ops) {
    const Function fn = [op = op](const Tensors& in) { return op(in[0]); };
    Fixture(name).check({"x"}, fn);
    expect_f32_agrees(fn, {uniform({2, 9, 8, 3})}, 5e-6);
    expect_strided_agrees(fn, {uniform({2, 5, 4, 3})}, 1e-12);
    expect_threads_agree(fn, {uniform({2, 40, 50, 8}, f32)});
    EXPECT_EQ(op(zeros({0, 3, 3, 1})).shape(), (Shape{0, 3, 3, 1}));
    EXPECT_ERROR(op(zeros({3, 3})), std::string(name) + ": x must be a map [N, H, W, C]; got x [3, 3]");
  }
}

TEST(Losses, SmallNumbers) {
  const Tensor x = from_vector<double>({0, 0}, {1, 2}), t = from_vector<double>({1, 0}, {1, 2});
  EXPECT_NEAR(bce_with_logits(x, t).item(), std::log(2), 1e-15);
  EXPECT_NEAR(iou_loss(x, t, 1).item(), 1 - 1.5 / 2.5, 1e-15);  // sums: p 1, t 1, pt 0.5
  EXPECT_NEAR(dice_loss(x, t, 1).item(), 1 - 2.0 / 3.0, 1e-15);
  EXPECT_EQ(bce_with_logits(x, t).shape(), Shape{});
}

TEST(Losses, LargeLogitsStayFinite) {
  for (const DType dtype : {f32, f64}) {
    const Tensor x = converted(from_vector<double>({1000, -1000, 1000, -1000}, {1, 2, 2, 1}), dtype);
    const Tensor t = converted(from_vector<double>({1, 0, 0, 1}, {1, 2, 2, 1}), dtype);
    EXPECT_NEAR(bce_with_logits(x, t).item(), 500, 1e-3);
    for (const NamedLoss& loss : losses()) {
      const Gradients result = run([&](const Tensors& in) { return loss.fn(in[0], t); }, {x}, ones({}, dtype));
      EXPECT_TRUE(std::isfinite(result.y.item())) << loss.name;
      for (const double g : result.grads[0].to_vector<double>()) EXPECT_TRUE(std::isfinite(g)) << loss.name;
    }
  }
}

TEST(Losses, PerfectPredictionsCostNothing) {
  const Tensor t = converted(greater(uniform({2, 12, 12, 1}), 0.2), f64);
  const Tensor x = (t * 2 - 1) * 100;
  for (const NamedLoss& loss : losses()) EXPECT_NEAR(loss.fn(x, t).item(), 0, 1e-9) << loss.name;
}

TEST(Losses, F32StridesAndThreads) {
  const Tensor x = uniform({2, 40, 30, 1}, f64, -4, 4), t = converted(uniform({2, 40, 30, 1}, f32, 0, 1), f64);
  const Tensor large = uniform({2, 150, 150, 1}, f32, -4, 4), large_t = uniform({2, 150, 150, 1}, f32, 0, 1);
  for (const NamedLoss& loss : losses()) {
    SCOPED_TRACE(loss.name);
    const Function fn = [&](const Tensors& in) { return loss.fn(in[0], converted(t, in[0].dtype())); };
    expect_f32_agrees(fn, {x}, 2e-6);
    expect_strided_agrees(fn, {x});
    expect_threads_agree([&](const Tensors& in) { return loss.fn(in[0], large_t); }, {large});
  }
}

TEST(Losses, BlurKeepsAConstantInside) {
  const Tensor y = detail::gaussian_blur(ones({1, 9, 9, 1}, f64), 5, 1.5);
  EXPECT_NEAR(y.to_vector<double>()[4 * 9 + 4], 1, 1e-15);
  EXPECT_LT(y.to_vector<double>()[0], 0.6);
  EXPECT_ERROR(detail::gaussian_blur(ones({3}), 5, 1.5), "gaussian_blur: x must be a map");
  EXPECT_ERROR(detail::gaussian_blur(ones({1, 3, 3, 1}), 4, 1.5), "gaussian_blur: window must be odd; got 4");
  EXPECT_ERROR(detail::gaussian_blur(ones({1, 3, 3, 1}), 5, 0), "gaussian_blur: deviation must be positive; got 0");
}

TEST(Losses, Errors) {
  const Tensor x = zeros({1, 3, 3, 1});
  const Tensor wanted = zeros({1, 3, 3, 1});
  wanted.set_requires_grad(true);
  for (const NamedLoss& loss : losses()) {
    const std::string op = loss.name;
    EXPECT_ERROR(loss.fn(x, zeros({1, 3, 3})),
                 op + ": target must have the shape of the logits; got logits [1, 3, 3, 1]");
    EXPECT_ERROR(loss.fn(x, zeros({1, 3, 3, 1}, f64)), op + ": target must have the dtype of the logits");
    EXPECT_ERROR(loss.fn(zeros({0, 3, 3, 1}), zeros({0, 3, 3, 1})), op + ": needs at least one element");
    EXPECT_ERROR(loss.fn(x, wanted), op + ": the target gets no gradient, but requires one; detach() it");
  }
  for (const char* name : {"edge_loss", "global_ssim_loss", "windowed_ssim_loss"}) {
    for (const NamedLoss& loss : losses()) {
      if (std::string(name) == loss.name) {
        EXPECT_ERROR(loss.fn(zeros({3, 3}), zeros({3, 3})), std::string(name) + ": x must be a map [N, H, W, C]");
      }
    }
  }
  EXPECT_ERROR(iou_loss(zeros({}), zeros({})), "iou_loss: logits must be [N, ...]; got logits []");
  EXPECT_ERROR(dice_loss(x, x, 0), "dice_loss: smooth must be positive; got 0");
  EXPECT_ERROR(windowed_ssim_loss(x, x, 4), "windowed_ssim_loss: window must be odd; got 4");
  EXPECT_ERROR(edge_magnitude(x, 0), "edge_magnitude: eps must be positive; got 0");
}

}  // namespace
}  // namespace camo
