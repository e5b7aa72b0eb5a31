// Operations that add their gradients to sums in place: the same as sums of gradients computed one by one.
#include "core/gradient_sum.h"

#include <functional>
#include <map>

#include "core/op_observer.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

/// Where each node's first gradient lies.
class GradientPlaces final : public OpObserver {
 public:
  GradientPlaces() { observe_ops(this); }
  ~GradientPlaces() override { observe_ops(nullptr); }
  void recorded(const Node&, std::span<const Tensor>, std::span<const Tensor>) override {}
  void backward_begins(const Node&) override {}
  void backward_ended(const Node&) override {}
  void differentiated(const Node& node, std::span<const Tensor> gradients) override {
    for (const Tensor& gradient : gradients) {
      if (gradient.defined()) places.emplace(&node, gradient.raw_data());
    }
  }
  std::map<const Node*, const void*> places;
};

struct Case {
  const char* name;
  Shape shape;
  std::function<Tensor(const Tensor&)> op;
  bool on_cpu = false;     // adds in place there, too
  bool in_pieces = false;  // adds in place with channels of whole pieces of 16 bytes, below f64

  bool adds_in_place(DType dtype) const {
    if (!default_device().is_cuda()) return on_cpu;
    if (std::string(name) == "in 16 bit") return dtype == f32;
    return !in_pieces || (dtype != f64 && shape[shape.size() - 1] * size_in_bytes(dtype) % 16 == 0);
  }
};

Tensor weights(const Shape& shape, DType dtype) { return to(test::uniform(shape, f64), dtype); }

std::vector<Case> cases() {
  const auto depthwise = [](int64_t kernel) {
    return [kernel](const Tensor& x) {
      const int64_t half = kernel / 2;
      return conv2d(x, weights({x.size(3), kernel, kernel, 1}, x.dtype()), {},
                    {.padding = {half, half}, .groups = x.size(3)});
    };
  };
  const auto normalized = [](const Tensor& x) {
    return layer_norm(x, weights({x.size(-1)}, x.dtype()), weights({x.size(-1)}, x.dtype()), 1e-5);
  };
  return {
      {"slice", {4, 6, 3}, [](const Tensor& x) { return slice(x, 1, 1, 6, 2); }, true},
      {"select", {4, 3, 5}, [](const Tensor& x) { return select(x, 1, 2); }, true},
      {"split",
       {4, 9},
       [](const Tensor& x) {
         return split(x, {2, 3, 4}, 1)[1];
       },
       true},
      {"all of split",
       {4, 9},
       [](const Tensor& x) {
         const Tensors parts = split(x, {2, 3, 4}, 1);
         return concat({parts[2], parts[0], parts[1]}, 1);
       },
       true},
      {"linear",
       {2, 5, 24},
       [](const Tensor& x) {
         return linear(x, weights({16, 24}, x.dtype()), {});
       }},
      {"linear, odd",
       {7, 9},
       [](const Tensor& x) {
         return linear(x, weights({3, 9}, x.dtype()), {});
       }},
      {"linear, no outputs",
       {7, 9},
       [](const Tensor& x) {
         return linear(x, weights({0, 9}, x.dtype()), {});
       }},
      {"1x1",
       {2, 3, 5, 8},
       [](const Tensor& x) {
         return conv2d(x, weights({4, 1, 1, 8}, x.dtype()), {}, {});
       }},
      {"depthwise 3", {2, 7, 5, 8}, depthwise(3), false, true},
      {"depthwise 3, wide", {2, 13, 53, 40}, depthwise(3), false, true},
      {"depthwise 5, odd", {2, 7, 13, 7}, depthwise(5), false, true},
      {"depthwise 5", {1, 17, 26, 72}, depthwise(5), false, true},
      {"depthwise 7", {1, 9, 8, 16}, depthwise(7), false, true},
      {"depthwise 9", {1, 9, 30, 40}, depthwise(9), false, true},
      {"layer norm", {3, 5, 80}, normalized},
      {"layer norm, odd", {13, 37}, normalized},
      {"layer norm, long rows", {3, 9001}, normalized},
      {"avg_pool2d",
       {2, 6, 7, 8},
       [](const Tensor& x) {
         return avg_pool2d(x, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
       }},
      {"adaptive_avg_pool2d", {2, 9, 7, 8}, [](const Tensor& x) { return adaptive_avg_pool2d(x, 4, 2); }},
      {"global_avg_pool2d", {2, 9, 7, 5}, [](const Tensor& x) { return global_avg_pool2d(x); }},
      {"global_max_pool2d", {2, 9, 7, 5}, [](const Tensor& x) { return global_max_pool2d(x); }},
      {"max_pool2d",
       {2, 9, 7, 8},
       [](const Tensor& x) {
         return max_pool2d(x, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
       }},
      {"resize_bilinear", {2, 5, 4, 8}, [](const Tensor& x) { return resize_bilinear(x, 11, 8); }},
      {"resize_bilinear to less", {1, 40, 40, 3}, [](const Tensor& x) { return resize_bilinear(x, 2, 3); }},
      {"mul",
       {3, 4, 8},
       [](const Tensor& x) {
         return mul(x, weights({3, 4, 8}, x.dtype()));
       }},
      {"mul of a gate",
       {3, 4, 8},
       [](const Tensor& x) {
         return mul(x, weights({3, 4, 1}, x.dtype()));
       }},
      {"mul, second", {3, 4, 7}, [](const Tensor& x) { return mul(weights({7}, x.dtype()), x); }},
      {"laplacian", {2, 6, 7, 8}, laplacian},
      {"edge_magnitude", {2, 6, 7, 5}, [](const Tensor& x) { return edge_magnitude(x, 1e-3); }},
      {"in 16 bit", {3, 5, 7}, [](const Tensor& x) { return to(to(x, bf16), x.dtype()); }},
  };
}

double tolerance(DType dtype) { return dtype == f64 ? 1e-12 : dtype == f32 ? 2e-5 : dtype == f16 ? 4e-3 : 3e-2; }

/// Each case with gradients that come after others.
class GradientSums : public ::testing::TestWithParam<DType> {};

TEST_P(GradientSums, EqualGradientsAddedOneByOne) {
  const DType dtype = GetParam();
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name);
    const Tensor leaf = to(test::uniform(one.shape, f64), dtype).set_requires_grad(true);
    const Tensor x = mul(leaf, 1);
    const Tensor y = one.op(x), other = mul(x, 3);  // made last: its gradient is there first
    const Tensor dy = weights(y.shape(), dtype), dother = weights(x.shape(), dtype);
    const Tensor outputs[] = {y, other}, seeds[] = {dy, dother};
    const auto gradient_of = [&](std::span<const Tensor> of, std::span<const Tensor> with) {
      leaf.set_grad({});
      backward(of, with, {.retain_graph = true});
      return to(leaf.grad().detach(), f64);
    };
    const Tensor first = gradient_of({outputs, 1}, {seeds, 1}), second = gradient_of({outputs + 1, 1}, {seeds + 1, 1});
    GradientPlaces observer;
    const Tensor both = gradient_of(outputs, seeds);
    EXPECT_TRUE(test::all_close(both, add(first, second), tolerance(dtype)));
    EXPECT_TRUE(test::bitwise_equal(both, gradient_of(outputs, seeds)));
    if (one.adds_in_place(dtype)) {
      int same = 0;
      const void* sum = observer.places.at(other.grad_node().get());
      for (const auto& [node, place] : observer.places) same += place == sum && node != x.grad_node().get();
      EXPECT_EQ(same, 2) << "added in a pass of its own";
    }
  }
}

TEST_P(GradientSums, ThoseOfLeavesToo) {
  const DType dtype = GetParam();
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name);
    const Tensor x = to(test::uniform(one.shape, f64), dtype).set_requires_grad(true);
    const Tensor y = one.op(x), dy = weights(y.shape(), dtype), before = weights(one.shape, dtype);
    backward(y, dy, {.retain_graph = true});
    const Tensor own = to(x.grad(), f64);
    x.set_grad(clone(before));
    const Tensor held = x.grad();
    backward(y, dy);
    EXPECT_TRUE(test::all_close(to(x.grad(), f64), add(to(before, f64), own), tolerance(dtype)));
    EXPECT_TRUE(held.same_as(x.grad()));
  }
}

INSTANTIATE_TEST_SUITE_P(All, GradientSums, ::testing::Values(f64, f32, bf16, f16),
                         [](const auto& dtype) { return std::string(name(dtype.param)); });

TEST(GradientSumsOfLinear, OfWeights) {
  const Tensor weight = test::uniform({5, 3}, f32).set_requires_grad(true);
  const Tensor x = test::uniform({4, 3}, f32), dy = test::uniform({4, 5}, f32);
  backward(linear(x, weight, {}), dy);
  const Tensor once = clone(weight.grad());
  backward(linear(x, weight, {}), dy);
  EXPECT_TRUE(test::all_close(weight.grad(), mul(once, 2), 1e-5));
  backward(linear(weight, weight, {}), test::uniform({5, 5}, f32));  // x and weight at once
  EXPECT_FALSE(test::all_close(weight.grad(), mul(once, 2), 1e-5));
}

TEST(GradientSumsOfLinear, OfATensorThatIsBothInputs) {
  for (const DType dtype : {f64, f32}) {
    const Tensor leaf = test::uniform({4, 4}, dtype).set_requires_grad(true);
    const Tensor x = mul(leaf, 1), product = linear(x, x, {}), square = mul(x, x), other = mul(x, 3);
    const Tensor one = ones({4, 4}, dtype), outputs[] = {product, square, other}, seeds[] = {one, one, one};
    backward(outputs, seeds);
    // d(sum x x^T) = 2 * (column sums of x) in every row
    const Tensor expected = add(add(mul(sum(leaf.detach(), {0}, true), 2), mul(leaf.detach(), 2)), 3);
    EXPECT_TRUE(test::all_close(leaf.grad(), expected, dtype == f64 ? 1e-12 : 1e-5));
  }
}

}  // namespace
}  // namespace camo
