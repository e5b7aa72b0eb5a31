// Gradient checks of convolution, pools and resizing.
#include <array>
#include <vector>

#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"
#include "ops/conv2d.h"
#include "ops/pool.h"
#include "ops/resize.h"
#include "ops/shape_ops.h"

namespace camo {

using gradient_cases::draw;
using gradient_cases::draw_distinct;
using gradient_cases::strided;

namespace {

struct ConvCase {
  const char* variant;
  Shape x, weight;
  bool bias;
  Conv2dOptions options;
  bool is_strided = false;
};

void add_conv_cases(std::vector<GradientCase>& cases) {
  const ConvCase convs[] = {
      {"3x3", {1, 4, 5, 2}, {3, 3, 3, 2}, true, {.padding = {1, 1}}},
      {"one element", {1, 1, 1, 1}, {1, 1, 1, 1}, true, {.padding = {1, 1}}},
      {"stem 4x4 / 4", {1, 8, 4, 3}, {2, 4, 4, 3}, true, {.stride = {4, 4}}},
      {"down 2x2 / 2, odd sizes", {2, 5, 3, 2}, {3, 2, 2, 2}, true, {.stride = {2, 2}}},
      {"dilated, no bias", {1, 5, 6, 2}, {2, 3, 3, 2}, false, {.padding = {2, 2}, .dilation = {2, 2}}},
      {"rectangular", {1, 5, 6, 2}, {2, 3, 2, 2}, true, {.stride = {2, 1}, .padding = {0, 1}, .dilation = {1, 3}}},
      {"pointwise", {2, 2, 3, 3}, {4, 1, 1, 3}, true, {}},
      {"depthwise 3x3", {2, 4, 5, 3}, {3, 3, 3, 1}, true, {.padding = {1, 1}, .groups = 3}},
      {"depthwise 5x5, 9 channels", {1, 3, 4, 9}, {9, 5, 5, 1}, false, {.padding = {2, 2}, .groups = 9}},
      {"depthwise, stride 2", {1, 5, 5, 4}, {4, 3, 3, 1}, true, {.stride = {2, 2}, .padding = {1, 1}, .groups = 4}},
      {"depthwise, dilation 2", {1, 6, 5, 2}, {2, 3, 3, 1}, true, {.padding = {1, 2}, .dilation = {2, 2}, .groups = 2}},
      {"four inputs a group", {1, 3, 4, 8}, {2, 3, 3, 4}, true, {.padding = {1, 1}, .groups = 2}},
      {"two outputs a group", {1, 3, 4, 4}, {4, 3, 3, 2}, true, {.padding = {1, 1}, .groups = 2}},
      {"strided input", {1, 4, 5, 2}, {3, 3, 3, 2}, true, {.padding = {1, 1}}, true},
      {"depthwise, strided input", {1, 4, 5, 3}, {3, 3, 3, 1}, true, {.padding = {1, 1}, .groups = 3}, true},
      {"no images", {0, 4, 5, 2}, {3, 3, 3, 2}, true, {.padding = {1, 1}}},
  };
  for (const ConvCase& c : convs) {
    cases.push_back({.op = "conv2d",
                     .variant = c.variant,
                     .fn = [c](const Tensors& in) -> Tensors {
                       return {conv2d(in[0], in[1], c.bias ? in[2] : Tensor(), c.options)};
                     },
                     .inputs =
                         [c] {
                           Tensors inputs{draw(c.x, 0), draw(c.weight, 1)};
                           if (c.is_strided) inputs = {strided(inputs[0]), strided(inputs[1])};
                           if (c.bias) inputs.push_back(draw({c.weight[0]}, 2));
                           return inputs;
                         }});
  }
}

struct MapCase {
  const char* variant;
  Shape x;
  std::array<int64_t, 2> size;
  bool is_strided = false;
};

void add_pool_cases(std::vector<GradientCase>& cases) {
  struct PoolCase {
    const char* variant;
    Shape x;
    Pool2dOptions options;
    bool is_strided = false;
  };
  const PoolCase pools[] = {
      {"3x3 stride 1", {1, 5, 4, 2}, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}}},
      {"5x5 stride 1", {1, 6, 5, 2}, {.kernel = {5, 5}, .stride = {1, 1}, .padding = {2, 2}}},
      {"2x2", {2, 4, 6, 3}, {}},
      {"odd sizes", {1, 7, 5, 3}, {.kernel = {3, 2}, .stride = {2, 3}, .padding = {1, 0}}},
      {"one element", {1, 1, 1, 1}, {.kernel = {1, 1}}},
      {"strided input", {2, 4, 5, 3}, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}, true},
      {"no images", {0, 4, 4, 2}, {}},
  };
  for (const PoolCase& c : pools) {
    const auto inputs = [c]() -> Tensors { return {c.is_strided ? strided(draw_distinct(c.x)) : draw_distinct(c.x)}; };
    const auto add = [&](const char* op, Tensor (*pool)(const Tensor&, const Pool2dOptions&)) {
      const auto fn = [c, pool](const Tensors& in) -> Tensors { return {pool(in[0], c.options)}; };
      cases.push_back({.op = op, .variant = c.variant, .fn = fn, .inputs = inputs});
    };
    add("avg_pool2d", avg_pool2d);
    add("max_pool2d", max_pool2d);
  }
  const MapCase maps[] = {
      {"to 2x2", {1, 4, 6, 2}, {2, 2}},      {"to 4x4, odd sizes", {1, 7, 5, 3}, {4, 4}},
      {"to 1x1", {2, 3, 4, 2}, {1, 1}},      {"larger than the map", {1, 3, 2, 2}, {5, 4}},
      {"one element", {1, 1, 1, 1}, {1, 1}}, {"strided input", {2, 4, 5, 3}, {2, 3}, true},
      {"no images", {0, 3, 3, 2}, {2, 2}},
  };
  for (const MapCase& c : maps) {
    const auto inputs = [c]() -> Tensors { return {c.is_strided ? strided(draw_distinct(c.x)) : draw_distinct(c.x)}; };
    const auto add = [&](const char* op, TensorFunction fn) {
      cases.push_back({.op = op, .variant = c.variant, .fn = std::move(fn), .inputs = inputs});
    };
    add("adaptive_avg_pool2d",
        [c](const Tensors& in) -> Tensors { return {adaptive_avg_pool2d(in[0], c.size[0], c.size[1])}; });
    add("global_avg_pool2d", [](const Tensors& in) -> Tensors { return {global_avg_pool2d(in[0])}; });
    add("global_max_pool2d", [](const Tensors& in) -> Tensors { return {global_max_pool2d(in[0])}; });
  }
}

void add_resize_cases(std::vector<GradientCase>& cases) {
  const MapCase maps[] = {
      {"twice the size", {1, 3, 4, 2}, {6, 8}}, {"from one pixel", {2, 1, 1, 3}, {4, 5}},
      {"from 2x2", {1, 2, 2, 2}, {5, 7}},       {"smaller, odd sizes", {1, 7, 5, 3}, {3, 4}},
      {"one axis only", {1, 4, 3, 2}, {4, 7}},  {"one channel", {2, 3, 4, 1}, {7, 5}},
      {"one element", {1, 1, 1, 1}, {1, 3}},    {"strided input", {2, 3, 4, 2}, {5, 6}, true},
      {"no images", {0, 3, 3, 2}, {6, 6}},
  };
  for (const MapCase& c : maps) {
    cases.push_back({.op = "resize_bilinear",
                     .variant = c.variant,
                     .fn = [c](const Tensors& in) -> Tensors { return {resize_bilinear(in[0], c.size[0], c.size[1])}; },
                     .inputs = [c]() -> Tensors { return {c.is_strided ? strided(draw(c.x, 3)) : draw(c.x, 3)}; }});
  }
}

}  // namespace

std::vector<GradientCase> conv_gradient_cases() {
  std::vector<GradientCase> cases;
  add_conv_cases(cases);
  add_pool_cases(cases);
  add_resize_cases(cases);
  return cases;
}

}  // namespace camo
