#include "ops/reduce.h"

#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"

namespace camo {

namespace {

using gradient_cases::draw;
using gradient_cases::draw_distinct;
using gradient_cases::strided;

using Reduction = Tensor (*)(const Tensor&, const Shape&, bool);

struct ReduceShapes {
  const char* variant;
  Shape x, axes;
  bool keep_dims = false;
};
const ReduceShapes kShapes[] = {
    {"all axes", {3, 5, 7}, {}},
    {"scalar", {}, {}},
    {"one element", {1, 1}, {1}},
    {"last axis", {3, 5, 7}, {-1}},
    {"first axis, kept", {5, 3, 2}, {0}, true},
    {"mean of a map", {2, 3, 5, 4}, {1, 2}},
    {"two groups of axes", {3, 2, 5, 2}, {0, 2}, true},
    {"empty result", {0, 3}, {1}},
};

void add_reduction(std::vector<GradientCase>& cases, const char* op, Reduction fn, bool distinct = false) {
  const auto input = [distinct](const Shape& shape) { return distinct ? draw_distinct(shape) : draw(shape, 8); };
  for (const ReduceShapes& s : kShapes) {
    cases.push_back({op, s.variant, [fn, s](const Tensors& in) -> Tensors { return {fn(in[0], s.axes, s.keep_dims)}; },
                     [input, s] { return Tensors{input(s.x)}; }});
  }
  cases.push_back({op, "strided",
                   [fn](const Tensors& in) -> Tensors {
                     return {fn(in[0], {0, 2}, false)};
                   },
                   [input] {
                     return Tensors{strided(input({3, 4, 5}))};
                   }});
}

void add_sum_to(std::vector<GradientCase>& cases) {
  const std::pair<const char*, std::pair<Shape, Shape>> shapes[] = {
      {"leading axes", {{3, 2, 5}, {5}}},  {"stretched axes", {{2, 3, 5, 4}, {2, 1, 1, 4}}},
      {"both kinds", {{3, 5, 7}, {5, 1}}}, {"to a scalar", {{3, 5}, {}}},
      {"only ones", {{1, 1, 3}, {3}}},     {"empty", {{0, 3}, {1, 3}}}};
  for (const auto& [variant, from_to] : shapes) {
    const auto [from, to] = from_to;
    cases.push_back({"sum_to", variant, [to = to](const Tensors& in) -> Tensors { return {sum_to(in[0], to)}; },
                     [from = from] { return Tensors{draw(from, 9)}; }});
  }
  cases.push_back({"sum_to", "strided",
                   [](const Tensors& in) -> Tensors {
                     return {sum_to(in[0], {4, 1})};
                   },
                   [] {
                     return Tensors{strided(draw({3, 4, 5}, 9))};
                   }});
}

}  // namespace

std::vector<GradientCase> reduce_gradient_cases() {
  std::vector<GradientCase> cases;
  add_reduction(cases, "sum", sum);
  add_reduction(cases, "mean", mean);
  add_reduction(cases, "max", max, true);
  add_reduction(cases, "min", min, true);
  add_reduction(cases, "norm", norm);
  add_sum_to(cases);
  return cases;
}

}  // namespace camo
