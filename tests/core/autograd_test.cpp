#include "core/autograd.h"

#include "core/gradient_sum.h"
#include "tests/core/product.h"

// The tape itself, on two operations of its own: it must not depend on ops/.
namespace camo {
namespace {

using namespace test;

/// Two copies of x, as two outputs.
struct TwinNode final : Node {
  TwinNode() : Node("twin") {}
  int calls = 0;
  Tensors backward(const Tensors& dy) override {
    Tensor dx = zeros_like(dy[0].defined() ? dy[0] : dy[1]);
    for (const Tensor& part : dy) {
      if (part.defined()) add_into(dx, part);
    }
    return {dx};
  }
};

Tensors twin(const Tensor& x) {
  Tensors outputs{clone(x), clone(x)};
  record<TwinNode>(std::span<const Tensor>(outputs), std::span<const Tensor>(&x, 1));
  return outputs;
}

/// Nodes in a chain that overflows the stack of a recursive walk (fewer where each one waits for a copy to the host).
int deep() { return default_device().is_cuda() ? 2000 : 200000; }

TEST(Autograd, ProductRule) {
  const Tensor a = leaf({2, 3}), b = leaf({5, 7});
  backward(product(a, b), ones2());
  EXPECT_EQ(grad_of(a), (std::vector<double>{5, 7}));
  EXPECT_EQ(grad_of(b), (std::vector<double>{2, 3}));
}

TEST(Autograd, ReusedTensorsSumTheirGradients) {
  const Tensor x = leaf({2, 3});
  const Tensor square = product(x, x);
  backward(product(square, square), ones2());  // x^4
  EXPECT_EQ(grad_of(x), (std::vector<double>{32, 108}));
}

TEST(Autograd, AccumulatesOverCalls) {
  const Tensor x = leaf({2, 3}), one = ones2();
  backward(product(x, one), ones2());
  backward(product(x, one), ones2());
  EXPECT_EQ(grad_of(x), (std::vector<double>{2, 2}));
}

TEST(Autograd, AddsToManyLeavesAndTwiceToOne) {
  Tensors leaves;
  Tensor y = ones2();
  for (int i = 0; i < 50; ++i) leaves.push_back(leaf({1, 1}));
  int calls = 0;
  const uint64_t hook = add_gradient_hook(leaves[7], [&](const Tensor& x) { EXPECT_EQ(grad_of(x)[0], 2 * (++calls)); });
  for (const Tensor& x : leaves) y = product(product(y, x), x);
  for (int i = 0; i < 3; ++i) backward(y, ones2(), {.retain_graph = true});
  remove_gradient_hook(hook);
  EXPECT_EQ(calls, 3);
  for (const Tensor& x : leaves) EXPECT_EQ(grad_of(x), (std::vector<double>{6, 6}));
}

TEST(Autograd, LeavesNeverShareGradientMemory) {
  const Tensor x = leaf({1, 1}), y = leaf({1, 1});
  const Tensors both = twin(x);
  const Tensor outputs[] = {both[0], y};
  const Tensor seed = ones2();
  const Tensor seeds[] = {seed, seed};
  backward(outputs, seeds);
  fill(x.grad(), 9);
  EXPECT_EQ(grad_of(y), kOnes);
  EXPECT_EQ(seed.to_vector<double>(), kOnes);
}

TEST(Autograd, NodesWithSeveralOutputsMayMissSomeGradients) {
  const Tensor x = leaf({2, 3});
  const Tensors parts = twin(x);
  backward(parts[1], ones2());
  EXPECT_EQ(grad_of(x), kOnes);
  backward(product(twin(x)[0], twin(x)[1]), ones2());
  EXPECT_EQ(grad_of(x), (std::vector<double>{5, 7}));
}

/// y = x[0] + x[1] + ..., whose gradients are added to sums where there are any.
struct TotalNode final : Node {
  TotalNode() : Node("total") {}
  std::vector<bool> added;     // for each input
  const Node* asks = nullptr;  // for the sums of another node
  Tensors backward(const Tensors& dy) override {
    Tensors dx;
    for (size_t i = 0; i < edges().size(); ++i) {
      const GradientSum sum(asks != nullptr ? *asks : *this, static_cast<int>(i), dy[0].shape(), f64, dy[0].device());
      added.push_back(sum.adds);
      if (sum.adds) add_into(sum.tensor, dy[0]);
      else copy_into(sum.tensor, dy[0]);
      dx.push_back(sum.tensor);
    }
    return dx;
  }
};

std::pair<Tensor, TotalNode*> total(const Tensors& x) {
  const Tensor y = clone(x[0]);
  for (size_t i = 1; i < x.size(); ++i) add_into(y, x[i]);
  return {y, record<TotalNode>(y, x)};
}

TEST(GradientSum, IsThereFromTheSecondGradientOn) {
  const Tensor x = leaf({2, 3}), mid = product(x, x);
  const auto [early, early_node] = total({mid});
  const auto [late, late_node] = total({mid});
  backward(product(early, late), ones2());  // mid^2 = x^4
  EXPECT_EQ(grad_of(x), (std::vector<double>{32, 108}));
  EXPECT_EQ(late_node->added, (std::vector<bool>{false}));
  EXPECT_EQ(early_node->added, (std::vector<bool>{true}));
  EXPECT_FALSE(take_gradient_sum(*early_node, 0).defined()) << "outside of backward";
}

TEST(GradientSum, OfOneTensorIsHandedOutOnce) {
  const Tensor x = leaf({2, 3}), mid = product(x, x);
  const auto [early, early_node] = total({mid, mid, x, x});
  const auto [late, late_node] = total({mid});
  const Tensor outputs[] = {early, late}, seeds[] = {ones2(), ones2()};
  backward(product(x, ones2()), ones2());  // x has a gradient
  backward(outputs, seeds);
  EXPECT_EQ(early_node->added, (std::vector<bool>{true, false, true, false}));
  EXPECT_EQ(grad_of(x), (std::vector<double>{1 + 2 + 3 * 2 * 2, 1 + 2 + 3 * 2 * 3}));
}

TEST(GradientSum, IsKeptWhereTheNodeDoesNotTakeIt) {
  const Tensor x = leaf({2, 3}), mid = product(x, x);
  const auto [early, early_node] = total({mid});
  const auto [late, late_node] = total({mid});
  early_node->asks = late_node;
  const Tensor outputs[] = {early, late}, seeds[] = {ones2(), ones2()};
  backward(outputs, seeds);
  EXPECT_EQ(early_node->added, (std::vector<bool>{false}));
  EXPECT_EQ(grad_of(x), (std::vector<double>{8, 12}));
}

TEST(GradientSum, IsNotHandedOutWhereOthersSeeItsMemory) {
  const Tensor x = leaf({2, 3}), mid = product(x, x), seed = ones2();
  const auto [y, node] = total({mid});
  const Tensor outputs[] = {mid, y}, seeds[] = {seed, seed};
  backward(outputs, seeds);
  EXPECT_EQ(node->added, (std::vector<bool>{false}));
  EXPECT_EQ(seed.to_vector<double>(), kOnes);
  EXPECT_EQ(grad_of(x), (std::vector<double>{8, 12}));
}

TEST(Autograd, NothingIsRecordedWithoutNeed) {
  const Tensor x = ones2(), w = leaf({1, 2});
  EXPECT_FALSE(product(x, x).requires_grad());
  {
    const NoGrad no_grad;
    EXPECT_FALSE(product(x, w).requires_grad());
    const EnableGrad enable;
    EXPECT_TRUE(product(x, w).requires_grad());
  }
  EXPECT_TRUE(product(x, w).requires_grad());
  EXPECT_FALSE(product(x, w).detach().requires_grad());
}

TEST(Autograd, OnlyNeededGradientsAreMade) {
  const Tensor x = ones2(), w = leaf({1, 2});
  const Tensor y = product(x, w);
  EXPECT_FALSE(y.grad_node()->needs(0));
  EXPECT_TRUE(y.grad_node()->needs(1));
  backward(y, ones2());
  EXPECT_FALSE(x.grad().defined());
}

TEST(Autograd, ChangedSavedTensorIsNamed) {
  const Tensor x = leaf({2, 3}), w = leaf({1, 1});
  const Tensor y = product(x, w);
  fill(w, 5);
  EXPECT_ERROR(backward(y, ones2()), "'b' saved by product was changed in place");
}

TEST(Autograd, SecondBackwardNeedsRetainGraph) {
  const Tensor x = leaf({2, 3});
  const Tensor y = product(x, x);
  backward(y, ones2(), {.retain_graph = true});
  backward(y, ones2());
  EXPECT_EQ(grad_of(x), (std::vector<double>{8, 12}));
  EXPECT_ERROR(backward(y, ones2()), "'b' saved by product was freed by an earlier backward; pass retain_graph");
}

TEST(Autograd, SavedTensorsAreFreedOnTheWay) {
  const Tensor x = leaf(std::vector<double>(1000, 1.0));
  Tensor y = product(product(x, x), x);
  const Tensor seed = ones({1000}, f64);
  const int64_t with_graph = memory_stats(default_device()).live_bytes;
  backward(y, seed);
  EXPECT_EQ(memory_stats(default_device()).live_bytes, with_graph);  // one intermediate freed, one gradient kept
}

TEST(Autograd, DeepGraphsNeedNoStack) {
  const Tensor x = leaf({1, 1});
  const Tensor one = ones2();
  Tensor y = x;
  for (int i = 0; i < deep(); ++i) y = product(y, one);
  backward(y, ones2());
  EXPECT_EQ(grad_of(x), kOnes);
}

TEST(Autograd, DeepGraphsAreDestroyedWithoutBackward) {
  Tensor y = leaf({1, 1});
  const Tensor one = ones2();
  for (int i = 0; i < deep(); ++i) y = product(y, one);
  y = Tensor();  // must not recurse
  SUCCEED();
}

TEST(Autograd, HooksRunOnceTheGradientIsComplete) {
  const Tensor x = leaf({2, 3});
  std::vector<std::vector<double>> seen;
  const uint64_t handle = add_gradient_hook(x, [&](const Tensor& p) { seen.push_back(grad_of(p)); });
  backward(product(product(x, x), x), ones2());
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0], (std::vector<double>{12, 27}));
  remove_gradient_hook(handle);
  backward(product(x, x), ones2());
  EXPECT_EQ(seen.size(), 1u);
}

TEST(Autograd, BackwardThroughALeafItself) {
  const Tensor x = leaf({2, 3});
  backward(x, ones2());
  EXPECT_EQ(grad_of(x), kOnes);
}

TEST(Autograd, ErrorsSayWhatIsWrong) {
  const Tensor x = leaf({2, 3});
  EXPECT_ERROR(backward(ones2(), ones2()), "the output has no graph");
  EXPECT_ERROR(backward(product(x, x)), "an output with 2 elements, shape [2], needs a gradient");
  EXPECT_ERROR(backward(product(x, x), ones({3}, f64)), "must be f64 [2] as the output is; got f64 [3]");
  EXPECT_ERROR(require_no_gradient("argmax", {x}), "argmax: has no gradient");
  EXPECT_ERROR(product(x, x).set_requires_grad(false), "use detach()");
  EXPECT_ERROR(add_gradient_hook(ones2(), [](const Tensor&) {}), "needs a leaf that requires a gradient");
}

/// Returns what it was given, whatever that is.
struct AnythingNode final : Node {
  AnythingNode() : Node("anything") {}
  Tensors gradients;
  Tensors backward(const Tensors&) override { return gradients; }
};

/// backward() of a node on x, times two, that returns these gradients.
void run_backward(const Tensors& gradients, const Tensor& x = leaf({1, 2})) {
  const Tensor doubled = product(x, full(x.shape(), 2, f64)), y = clone(doubled);
  record<AnythingNode>(y, {doubled})->gradients = gradients;
  backward(y, ones(y.shape(), f64));
}

TEST(Autograd, GradientsOfNodesAreChecked) {
  const Tensor x = leaf({1, 2});
  run_backward({from_vector<double>({3, 4}, {2})}, x);
  EXPECT_EQ(grad_of(x), (std::vector<double>{6, 8}));
  EXPECT_ERROR(run_backward({}), "anything must return one gradient for each input that record() got, 1 in all; got 0");
  EXPECT_ERROR(run_backward({zeros({2}, f64), Tensor()}), "1 in all; got 2");
  EXPECT_ERROR(run_backward({zeros({1}, f64)}),
               "backward: anything must return a gradient with the shape and dtype of input 0, f64 [2]; got f64 [1]");
  EXPECT_ERROR(run_backward({zeros({2})}), "input 0, f64 [2]; got f32 [2]");
  run_backward({Tensor()});  // no gradient
}

TEST(Autograd, ErrorsInANodeNameIt) {
  const Tensor x = leaf({1, 2}), y = clone(x);
  record<ProductNode>(y, {x, Tensor()});  // saves nothing
  EXPECT_ERROR(backward(y, y.detach()), "tensor: is undefined; it holds no data\n  in the backward of product");
}

TEST(Autograd, OnlyNewTensorsAreRecorded) {
  const Tensor x = leaf({1, 2}), y = product(x, x);
  EXPECT_ERROR(record<TwinNode>(x, {x}), "record: the outputs of twin must be new tensors; got one, f64 [2]");
  EXPECT_ERROR(record<TwinNode>(y, {x}), "the outputs of twin must be new tensors");
  EXPECT_TRUE(x.is_leaf());
  EXPECT_ERROR(y.grad_node()->needs(2), "product: has 2 inputs; got needs(2)");
  static_assert(!NodeFrom<ProductNode, int> && !NodeFrom<Node> && !NodeFrom<Tensor>);
}

TEST(Autograd, ComputedTensorsAreNotChangedInPlace) {
  const Tensor x = leaf({1, 2}), y = product(x, x);
  EXPECT_ERROR(fill(y, 0), "fill: is not recorded, so a computed tensor that wants a gradient, here f64 [2], can't be");
  EXPECT_ERROR(add_into(y, x), "add_into: is not recorded");
  EXPECT_ERROR(copy_into(y, x), "copy: is not recorded");
  add_into(y.detach(), x);  // says that it knows
  fill(x, 3);               // a leaf: initial values
  const NoGrad no_grad;
  fill(y, 0);
}

TEST(Autograd, LeavesKeepTheirDtypeUntilBackward) {
  const Tensor x = leaf({1, 2}), y = product(x, leaf({1, 2}));
  x.impl()->dtype = f32;  // as Module::to() does
  EXPECT_ERROR(backward(y, ones({2}, f64)), "backward: a leaf that was f64 [2] in the forward is f32 [2] now");
}

}  // namespace
}  // namespace camo
