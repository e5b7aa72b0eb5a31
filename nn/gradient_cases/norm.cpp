#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"
#include "ops/detail/gaussian_blur.h"
#include "ops/dropout.h"
#include "ops/losses.h"
#include "ops/normalization.h"

namespace camo {

namespace {

using gradient_cases::beside;
using gradient_cases::draw;
using gradient_cases::sliced;
using gradient_cases::strided;

void add_one_input(std::vector<GradientCase>& cases, const char* op, const char* variant, const Shape& shape,
                   std::function<Tensor(const Tensor&)> fn) {
  cases.push_back({op, variant, [fn](const Tensors& in) -> Tensors { return {fn(in[0])}; },
                   [shape] { return Tensors{draw(shape, 20)}; }});
}

/// The same from memory with other strides.
void add_strided_input(std::vector<GradientCase>& cases, const char* op, const Shape& shape,
                       std::function<Tensor(const Tensor&)> fn) {
  const TensorFunction apply = [fn](const Tensors& in) -> Tensors { return {fn(in[0])}; };
  cases.push_back({op, "strided", apply, [shape = shape] { return Tensors{strided(draw(shape, 20))}; }});
  cases.push_back({op, "sliced", apply, [shape = shape] { return Tensors{sliced(shape, 20)}; }});
}

void add_layer_norm(std::vector<GradientCase>& cases) {
  const TensorFunction apply = [](const Tensors& in) -> Tensors { return {layer_norm(in[0], in[1], in[2], 1e-3)}; };
  const std::pair<const char*, Shape> shapes[] = {{"one channel", {3, 1}},    {"vector", {7}},
                                                  {"odd sizes", {3, 5}},      {"map", {2, 3, 2, 4}},
                                                  {"many rows", {131, 1, 2}}, {"empty", {0, 3}}};
  for (const auto& [variant, shape] : shapes) {
    cases.push_back({"layer_norm", variant, apply, [shape = shape] {
                       return Tensors{draw(shape, 1), draw({shape.back()}, 2, 0.5, 1.5), draw({shape.back()}, 3)};
                     }});
  }
  cases.push_back({"layer_norm", "sliced", apply, [] {
                     return Tensors{sliced({2, 3, 5}, 1), sliced({5}, 2), sliced({5}, 3)};
                   }});
  cases.push_back({"layer_norm", "strided", apply, [] {
                     return Tensors{strided(draw({2, 3, 5}, 1)), strided(draw({5}, 2)), strided(draw({5}, 3))};
                   }});
}

void add_batch_norm(std::vector<GradientCase>& cases) {
  for (const bool training : {true, false}) {
    // Fresh running statistics each time, so that every evaluation sees the same ones.
    const TensorFunction apply = [training](const Tensors& in) -> Tensors {
      const Shape channels{in[0].size(-1)};
      return {batch_norm(in[0], in[1], in[2], beside(in[1], draw(channels, 4)),
                         beside(in[1], draw(channels, 5, 0.5, 1.5)), {.training = training, .eps = 1e-3})};
    };
    const auto add = [&](const char* in_training, const char* in_evaluation, std::function<Tensors()> inputs) {
      cases.push_back({"batch_norm", training ? in_training : in_evaluation, apply, std::move(inputs)});
    };
    const auto dense = [](const Shape& shape) {
      return [shape] { return Tensors{draw(shape, 1), draw({shape.back()}, 2, 0.5, 1.5), draw({shape.back()}, 3)}; };
    };
    add("training, one channel", "evaluation, one value", dense(training ? Shape{3, 1} : Shape{1, 1}));
    add("training, odd sizes", "evaluation, odd sizes", dense({5, 3}));
    add("training, map", "evaluation, map", dense({2, 3, 2, 4}));
    add("training, many rows", "evaluation, many rows", dense({131, 2}));
    add("training, no channels", "evaluation, empty", dense(training ? Shape{3, 0} : Shape{0, 3}));
    add("training, sliced", "evaluation, sliced", [] {
      return Tensors{sliced({2, 3, 5}, 1), sliced({5}, 2), sliced({5}, 3)};
    });
    add("training, strided", "evaluation, strided", [] {
      return Tensors{strided(draw({2, 3, 5}, 1)), strided(draw({5}, 2)), strided(draw({5}, 3))};
    });
  }
}

void add_scaled_residual(std::vector<GradientCase>& cases) {
  const TensorFunction apply = [](const Tensors& in) -> Tensors { return {scaled_residual(in[0], in[1], in[2])}; };
  const std::pair<const char*, Shape> shapes[] = {{"one channel", {3, 1}},    {"vector", {7}},
                                                  {"odd sizes", {3, 5}},      {"map", {2, 3, 2, 4}},
                                                  {"many rows", {131, 1, 2}}, {"empty", {0, 3}}};
  for (const auto& [variant, shape] : shapes) {
    cases.push_back({"scaled_residual", variant, apply, [shape = shape] {
                       return Tensors{draw(shape, 1), draw(shape, 2), draw({shape.back()}, 3)};
                     }});
  }
  cases.push_back({"scaled_residual", "sliced", apply, [] {
                     return Tensors{sliced({2, 3, 5}, 1), sliced({2, 3, 5}, 2), sliced({5}, 3)};
                   }});
  cases.push_back({"scaled_residual", "strided", apply, [] {
                     return Tensors{strided(draw({2, 3, 5}, 1)), strided(draw({2, 3, 5}, 2)), strided(draw({5}, 3))};
                   }});
}

void add_l2_normalize(std::vector<GradientCase>& cases) {
  const auto along = [](int axis, double eps = 1e-12) {
    return [axis, eps](const Tensor& x) { return l2_normalize(x, axis, eps); };
  };
  add_one_input(cases, "l2_normalize", "last axis", {3, 5}, along(-1));
  add_one_input(cases, "l2_normalize", "first axis", {5, 3, 2}, along(0));
  add_one_input(cases, "l2_normalize", "middle", {2, 5, 3}, along(1));
  add_one_input(cases, "l2_normalize", "below the floor", {3, 5}, along(-1, 100));
  add_one_input(cases, "l2_normalize", "below the floor, first axis", {3, 5}, along(0, 100));
  add_one_input(cases, "l2_normalize", "empty", {0, 3}, along(-1));
  add_strided_input(cases, "l2_normalize", {2, 5, 3}, along(1));
}

void add_dropout(std::vector<GradientCase>& cases) {
  const auto drop = [](double p) { return [p](const Tensor& x) { return dropout(x, p, RandomKey{7, 2}); }; };
  add_one_input(cases, "dropout", "one element", {1}, drop(0.3));
  add_one_input(cases, "dropout", "odd sizes", {3, 5, 7}, drop(0.5));
  add_one_input(cases, "dropout", "p = 0", {5}, drop(0));
  add_one_input(cases, "dropout", "p = 1", {5}, drop(1));
  add_one_input(cases, "dropout", "empty", {0, 3}, drop(0.5));
  add_strided_input(cases, "dropout", {3, 4, 2}, drop(0.4));
}

void add_edges(std::vector<GradientCase>& cases) {
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"sobel_x", sobel_x},
      {"sobel_y", sobel_y},
      {"laplacian", laplacian},
      {"edge_magnitude", [](const Tensor& x) { return edge_magnitude(x, 1e-2); }},
      {"gaussian_blur", [](const Tensor& x) { return detail::gaussian_blur(x, 5, 1.5); }},
  };
  for (const auto& [op, fn] : ops) {
    add_one_input(cases, op, "one pixel", {1, 1, 1, 1}, fn);
    add_one_input(cases, op, "one row", {1, 1, 5, 2}, fn);
    add_one_input(cases, op, "one column", {1, 5, 1, 2}, fn);
    add_one_input(cases, op, "odd sizes", {2, 5, 7, 1}, fn);
    add_one_input(cases, op, "channels", {1, 4, 3, 3}, fn);
    add_one_input(cases, op, "empty", {0, 3, 3, 2}, fn);
    add_strided_input(cases, op, {2, 3, 4, 2}, fn);
  }
}

void add_losses(std::vector<GradientCase>& cases) {
  using Loss = std::function<Tensor(const Tensor&, const Tensor&)>;
  const std::pair<const char*, Loss> losses[] = {
      {"bce_with_logits", bce_with_logits},
      {"iou_loss", [](const Tensor& x, const Tensor& t) { return iou_loss(x, t); }},
      {"dice_loss", [](const Tensor& x, const Tensor& t) { return dice_loss(x, t); }},
      {"edge_loss", [](const Tensor& x, const Tensor& t) { return edge_loss(x, t, 1e-2); }},
      {"global_ssim_loss", global_ssim_loss},
      {"windowed_ssim_loss", [](const Tensor& x, const Tensor& t) { return windowed_ssim_loss(x, t, 5); }},
  };
  for (const auto& [op, loss] : losses) {
    const auto to_target = [loss = loss](const Tensor& x) { return loss(x, beside(x, draw(x.shape(), 21, 0, 1))); };
    add_one_input(cases, op, "one pixel", {1, 1, 1, 1}, to_target);
    add_one_input(cases, op, "odd sizes", {1, 7, 5, 1}, to_target);
    add_one_input(cases, op, "images", {3, 4, 5, 1}, to_target);
    add_one_input(cases, op, "channels", {2, 3, 4, 2}, to_target);
    add_strided_input(cases, op, {2, 5, 4, 1}, to_target);
  }
}

}  // namespace

std::vector<GradientCase> norm_gradient_cases() {
  std::vector<GradientCase> cases;
  add_layer_norm(cases);
  add_batch_norm(cases);
  add_scaled_residual(cases);
  add_l2_normalize(cases);
  add_dropout(cases);
  add_edges(cases);
  add_losses(cases);
  return cases;
}

}  // namespace camo
