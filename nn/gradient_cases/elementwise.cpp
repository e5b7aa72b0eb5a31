#include "ops/elementwise.h"

#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"

namespace camo {

namespace {

using gradient_cases::draw;
using gradient_cases::draw_distinct;
using gradient_cases::strided;

using Unary = Tensor (*)(const Tensor&);

/// Values that suit the domain and the kinks of an operation.
enum class Domain { real, away_from_zero, positive };

Tensor in_domain(const Shape& shape, Domain domain) {
  switch (domain) {
    case Domain::positive: return draw(shape, 1, 0.4, 2.5);
    case Domain::away_from_zero: return draw_distinct(shape);
    default: return draw(shape, 2, -2.5, 2.5);
  }
}

void add_unary(std::vector<GradientCase>& cases, const char* op, std::function<Tensor(const Tensor&)> fn,
               Domain domain = Domain::real) {
  const TensorFunction apply = [fn](const Tensors& in) -> Tensors { return {fn(in[0])}; };
  const std::pair<const char*, Shape> shapes[] = {
      {"scalar", {}}, {"one element", {1, 1}}, {"odd sizes", {3, 5, 7}}, {"map", {2, 3, 4, 5}}, {"empty", {3, 0, 2}}};
  for (const auto& [variant, shape] : shapes) {
    cases.push_back({op, variant, apply, [shape = shape, domain] { return Tensors{in_domain(shape, domain)}; }});
  }
  cases.push_back({op, "strided", apply, [domain] { return Tensors{strided(in_domain({4, 3, 5}, domain))}; }});
}

struct BinaryShapes {
  const char* variant;
  Shape a, b;
};
const BinaryShapes kBinaryShapes[] = {
    {"equal shapes", {3, 5, 7}, {3, 5, 7}},
    {"scalars", {}, {}},
    {"scalar operand", {2, 3, 5}, {}},
    {"last axis", {2, 3, 5}, {5}},
    {"gate of a map", {2, 3, 2, 4}, {2, 1, 1, 4}},
    {"gate without channels", {2, 3, 2, 4}, {2, 3, 2, 1}},
    {"both broadcast", {3, 1, 5}, {4, 1}},
    {"more axes on the right", {5}, {3, 2, 5}},
    {"empty", {0, 3}, {3}},
};

template <class Fn>
void add_binary(std::vector<GradientCase>& cases, const char* op, Fn fn, bool distinct = false) {
  const TensorFunction apply = [fn](const Tensors& in) -> Tensors { return {fn(in[0], in[1])}; };
  const auto inputs = [distinct](const Shape& a, const Shape& b) {
    if (distinct) return Tensors{draw_distinct(a), draw_distinct(b, 0.5)};
    return Tensors{draw(a, 3), draw(b, 4, 0.5, 2)};
  };
  for (const BinaryShapes& shapes : kBinaryShapes) {
    cases.push_back({op, shapes.variant, apply, [inputs, shapes] { return inputs(shapes.a, shapes.b); }});
  }
  cases.push_back({op, "strided", apply, [inputs] {
                     const Tensors in = inputs({3, 4, 5}, {4, 5});
                     return Tensors{strided(in[0]), strided(in[1])};
                   }});
  cases.push_back({op, "same tensor twice, by way of a product",
                   [fn](const Tensors& in) -> Tensors { return {fn(in[0], mul(in[0], 0.5))}; },
                   [inputs] {
                     return Tensors{inputs({3, 4}, {1})[0]};
                   }});
}

Tensor condition_of(const Shape& shape) { return greater(draw(shape, 5), 0.0); }

void add_where(std::vector<GradientCase>& cases) {
  struct WhereShapes {
    const char* variant;
    Shape condition, x, y;
  };
  const WhereShapes shapes[] = {
      {"equal shapes", {3, 5}, {3, 5}, {3, 5}},        {"scalars", {}, {}, {}},
      {"scalar choice", {3, 5}, {3, 5}, {}},           {"condition broadcasts", {3, 1}, {2, 3, 5}, {5}},
      {"condition is larger", {2, 3, 5}, {3, 1}, {5}}, {"empty", {0, 5}, {5}, {0, 5}}};
  for (const WhereShapes& s : shapes) {
    cases.push_back({"where", s.variant,
                     [s](const Tensors& in) -> Tensors { return {where(condition_of(s.condition), in[0], in[1])}; },
                     [s] {
                       return Tensors{draw(s.x, 6), draw(s.y, 7)};
                     }});
  }
  cases.push_back({"where", "strided",
                   [](const Tensors& in) -> Tensors {
                     return {where(condition_of({4, 5}), in[0], in[1])};
                   },
                   [] {
                     return Tensors{strided(draw({4, 5}, 6)), strided(draw({4, 5}, 7))};
                   }});
}

}  // namespace

std::vector<GradientCase> elementwise_gradient_cases() {
  std::vector<GradientCase> cases;
  add_unary(cases, "neg", Unary{neg});
  add_unary(cases, "abs", Unary{abs}, Domain::away_from_zero);
  add_unary(cases, "square", Unary{square});
  add_unary(cases, "sqrt", Unary{sqrt}, Domain::positive);
  add_unary(cases, "exp", Unary{exp});
  add_unary(cases, "log", Unary{log}, Domain::positive);
  add_unary(cases, "sin", Unary{sin});
  add_unary(cases, "cos", Unary{cos});
  add_unary(cases, "erf", Unary{erf});
  add_unary(cases, "sigmoid", Unary{sigmoid});
  add_unary(cases, "tanh", Unary{tanh});
  add_unary(cases, "relu", Unary{relu}, Domain::away_from_zero);
  add_unary(cases, "gelu", Unary{gelu});
  add_unary(cases, "softplus", Unary{softplus});
  add_unary(
      cases, "clamp", [](const Tensor& x) { return clamp(x, -0.5001, 0.4999); }, Domain::away_from_zero);
  add_unary(
      cases, "pow", [](const Tensor& x) { return pow(x, 2.5); }, Domain::positive);
  add_unary(
      cases, "pow", [](const Tensor& x) { return pow(x, 3); }, Domain::away_from_zero);
  add_unary(cases, "add", [](const Tensor& x) { return 1.5 + x; });
  add_unary(cases, "mul", [](const Tensor& x) { return x * -2.5; });
  // Rounding to f32 asks for a wide step; the function is linear.
  const size_t casts = cases.size();
  add_unary(cases, "to", [](const Tensor& x) { return to(to(x, f32) * 2, f64); });
  for (size_t i = casts; i < cases.size(); ++i) {
    cases[i].options = {.relative_tolerance = 1e-4, .absolute_tolerance = 1e-5, .step = 1e-2};
  }
  using Binary = Tensor (*)(const Tensor&, const Tensor&);
  add_binary(cases, "add", Binary{add});
  add_binary(cases, "sub", Binary{sub});
  add_binary(cases, "mul", Binary{mul});
  add_binary(cases, "div", [](const Tensor& a, const Tensor& b) { return div(a, b + 0.25); });
  add_binary(cases, "maximum", Binary{maximum}, true);
  add_binary(cases, "minimum", Binary{minimum}, true);
  add_where(cases);
  return cases;
}

}  // namespace camo
