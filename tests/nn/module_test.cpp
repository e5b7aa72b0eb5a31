#include "nn/module.h"

#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::uniform;

class Leaf : public Module {
 public:
  Leaf()
      : weight(param("weight", uniform({2, 3}, f32))),
        count(buffer("count", full({}, 5, i64))),
        running(buffer("running", uniform({3}, f32))),
        bias(param("bias", uniform({2}, f32))) {}

  Tensor weight, count, running, bias;
};

class Tree : public Module {
 public:
  Tree()
      : left(child<Leaf>("left")),
        kernel(param("kernel", uniform({2, 3, 3, 4}, f32), Layout::conv_weight)),
        right(child<Leaf>("right")) {}

  Leaf& left;
  Tensor kernel;
  Leaf& right;
};

std::vector<std::string> names(const std::vector<NamedTensor>& all) {
  std::vector<std::string> out;
  for (const NamedTensor& entry : all) out.push_back(entry.name);
  return out;
}

std::vector<std::string> names(const StateDict& state) {
  std::vector<std::string> out;
  for (const auto& entry : state) out.push_back(entry.first);
  return out;
}

using Names = std::vector<std::string>;

// Recorded from the same tree in PyTorch.
TEST(Module, ListsTensorsInPyTorchsOrder) {
  const Tree tree;
  EXPECT_EQ(names(tree.named_parameters()),
            (Names{"kernel", "left.weight", "left.bias", "right.weight", "right.bias"}));
  EXPECT_EQ(names(tree.named_buffers()), (Names{"left.count", "left.running", "right.count", "right.running"}));
  EXPECT_EQ(names(tree.state_dict()), (Names{"kernel", "left.weight", "left.bias", "left.count", "left.running",
                                             "right.weight", "right.bias", "right.count", "right.running"}));
  EXPECT_EQ(tree.parameters().size(), 5u);
}

TEST(Module, CountsParameters) {
  Tree tree;
  EXPECT_EQ(tree.parameter_count(), 72 + 2 * 8);
  tree.left.freeze();
  EXPECT_EQ(tree.parameter_count(true), 72 + 8);
  EXPECT_FALSE(tree.left.weight.requires_grad());
  tree.unfreeze();
  EXPECT_EQ(tree.parameter_count(true), 72 + 2 * 8);
  EXPECT_FALSE(tree.left.running.requires_grad());  // a buffer never trains
}

// Clipping would scale the gradient of a shared tensor twice.
TEST(Module, SharedTensorsCountOnce) {
  class Tied : public Module {
   public:
    Tied()
        : weight(param("first", uniform({2, 2}, f32))),
          again(param("second", weight)),
          statistics(buffer("mean", uniform({2}, f32))) {
      buffer("same_mean", statistics);
      add_child("left", leaf);
      add_child("right", leaf);
    }
    std::shared_ptr<Leaf> leaf = std::make_shared<Leaf>();
    Tensor weight, again, statistics;
  } tied;
  EXPECT_EQ(names(tied.named_parameters()), (std::vector<std::string>{"first", "left.weight", "left.bias"}));
  EXPECT_EQ(names(tied.named_buffers()), (std::vector<std::string>{"mean", "left.count", "left.running"}));
  EXPECT_EQ(tied.parameters().size(), 3u);
  EXPECT_EQ(tied.parameter_count(), 4 + 8);
  EXPECT_EQ(tied.state_dict().size(), 4u + 2 * 4);  // as PyTorch saves them
  tied.load_state_dict(tied.state_dict());
}

TEST(Module, RefusesNames) {
  class Bad : public Module {
   public:
    using Module::add_child;
    using Module::buffer;
    using Module::param;
  } bad;
  bad.param("w", zeros({1}));
  EXPECT_ERROR(bad.param("a.b", zeros({1})), "nor contain dots, which separate levels; got 'a.b'");
  EXPECT_ERROR(bad.param("", zeros({1})), "must not be empty");
  EXPECT_ERROR(bad.param("w", zeros({1})), "unique within a module; got 'w' twice");
  EXPECT_ERROR(bad.buffer("w", zeros({1})), "got 'w' twice");
  EXPECT_ERROR(bad.add_child("w", std::make_shared<Leaf>()), "got 'w' twice");
  EXPECT_ERROR(bad.add_child("c.d", std::make_shared<Leaf>()), "got 'c.d'");
  EXPECT_ERROR(bad.add_child("c", nullptr), "child 'c' is null");
  EXPECT_ERROR(bad.param("p", {}), "must be a floating tensor outside of any graph; got an undefined one");
  EXPECT_ERROR(bad.param("p", zeros({1}, i64)),
               "parameter 'p' must be a floating tensor outside of any graph; got i64");
  EXPECT_ERROR(bad.buffer("p", make_view(zeros({4}), {2}, {2}, 0)), "'p' must be defined and contiguous");
  EXPECT_ERROR(bad.param("p", zeros({2, 3}), Layout::conv_weight), "must be [O, KH, KW, I]; got [2, 3]");
  EXPECT_EQ(bad.parameters().size(), 1u);
  EXPECT_TRUE(bad.named_children().empty());
  static_assert(ModuleFrom<Leaf> && !ModuleFrom<Leaf, int> && !ModuleFrom<Tensor>);
}

TEST(Module, ExportsConvolutionWeightsInPyTorchsLayout) {
  const Tree tree;
  const Tensor file = tree.state_dict()[0].second;
  ASSERT_EQ(file.shape(), (Shape{2, 4, 3, 3}));
  EXPECT_TRUE(file.is_contiguous());
  const auto memory = tree.kernel.to_vector<float>(), values = file.to_vector<float>();
  for (int64_t o = 0; o < 2; ++o) {
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t k = 0; k < 9; ++k) {
        EXPECT_EQ(values[static_cast<size_t>((o * 4 + i) * 9 + k)], memory[static_cast<size_t>((o * 9 + k) * 4 + i)]);
      }
    }
  }
}

TEST(Module, LoadsWhatItSaved) {
  const Tree source;
  Tree target;
  fill(target.left.count, 0);
  EXPECT_FALSE(bitwise_equal(source.kernel, target.kernel));
  target.load_state_dict(source.state_dict());
  const StateDict a = source.state_dict(), b = target.state_dict();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(bitwise_equal(a[i].second, b[i].second)) << a[i].first;
  EXPECT_TRUE(bitwise_equal(source.kernel, target.kernel));
}

TEST(Module, SavesCopies) {
  const Tree tree;
  const StateDict state = tree.state_dict();
  fill(tree.left.weight, 9);
  EXPECT_NE(state[1].second.to_vector<float>()[0], 9);
}

TEST(Module, ConvertsDtypesOnLoading) {
  Leaf leaf;
  StateDict state = leaf.state_dict();
  state[0].second = full({2, 3}, 0.25, f64);
  state[1].second = full({2}, 0.5, bf16);
  leaf.load_state_dict(state);
  EXPECT_EQ(leaf.weight.dtype(), f32);
  EXPECT_EQ(leaf.weight.to_vector<double>()[5], 0.25);
  EXPECT_EQ(leaf.bias.to_vector<double>()[1], 0.5);
}

TEST(Module, ComparesEverythingBeforeItLoads) {
  Tree tree;
  const StateDict before = tree.state_dict();
  StateDict state = tree.state_dict();
  for (auto& [name, values] : state) values = zeros(values.shape(), values.dtype());
  state[1].second = zeros({3, 2});   // left.weight
  state[3].second = zeros({});       // left.count is i64
  state[5].first = "right.weights";  // right.weight
  state.emplace_back("extra", zeros({1}));
  const StateMismatch mismatch = tree.compare_state_dict(state);
  EXPECT_EQ(mismatch.missing, Names{"right.weight"});
  EXPECT_EQ(mismatch.unexpected, (Names{"right.weights", "extra"}));
  EXPECT_EQ(mismatch.mismatched,
            (Names{"left.weight: module [2, 3], file [3, 2]", "left.count: module i64, file f32"}));
  EXPECT_ERROR(tree.load_state_dict(state), "nothing was loaded\nmissing in the file (1):\n  right.weight\n");
  EXPECT_ERROR(tree.load_state_dict(state), "unexpected in the file (2):\n  right.weights\n  extra\n");
  EXPECT_ERROR(tree.load_state_dict(state), "different (2):\n  left.weight: module [2, 3], file [3, 2]\n");
  try {
    tree.load_state_dict(state);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::checkpoint);
  }
  const StateDict after = tree.state_dict();
  for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(bitwise_equal(before[i].second, after[i].second));
  state.back().first = "kernel";
  EXPECT_ERROR(tree.load_state_dict(state), "names must be unique; got 'kernel' twice");
}

TEST(Module, ShortensLongLists) {
  StateMismatch mismatch;
  EXPECT_TRUE(mismatch.empty());
  EXPECT_EQ(mismatch.str(), "");
  for (int i = 0; i < 50; ++i) mismatch.missing.push_back(concat_text("m", i));
  EXPECT_FALSE(mismatch.empty());
  EXPECT_NE(mismatch.str().find("missing in the file (50)"), std::string::npos);
  EXPECT_NE(mismatch.str().find("... and 30 more"), std::string::npos);
}

TEST(Module, ImportChecksShapes) {
  const NamedTensor entry{.name = "k", .tensor = zeros({2, 3, 3, 4}), .layout = Layout::conv_weight};
  EXPECT_EQ(entry.exported_shape(), (Shape{2, 4, 3, 3}));
  EXPECT_ERROR(entry.import(zeros({2, 3, 3, 4})), "k: module [2, 4, 3, 3], file [2, 3, 3, 4]");
}

TEST(Module, ConvertsInPlaceSoThatHandlesStayValid) {
  Tree tree;
  const auto values = tree.kernel.to_vector<double>();
  tree.kernel.set_grad(zeros_like(tree.kernel));
  const Tensor handle = tree.kernel;
  tree.to(f64);
  EXPECT_EQ(handle.dtype(), f64);
  EXPECT_EQ(tree.left.running.dtype(), f64);
  EXPECT_EQ(tree.left.count.dtype(), i64);
  EXPECT_EQ(tree.kernel.to_vector<double>(), values);
  EXPECT_TRUE(tree.kernel.requires_grad());
  EXPECT_TRUE(tree.kernel.is_leaf());
  EXPECT_FALSE(tree.kernel.grad().defined());
  EXPECT_TRUE(handle.same_as(tree.named_parameters()[0].tensor));
  tree.kernel.set_grad(zeros_like(tree.kernel));
  tree.to(handle.device(), f64);  // nothing to change: gradients stay
  EXPECT_TRUE(tree.kernel.grad().defined());
  tree.to(handle.device());
  EXPECT_EQ(handle.dtype(), f64);
  EXPECT_TRUE(tree.kernel.grad().defined());
  EXPECT_ERROR(tree.to(i64), "parameters are floating; got to(i64)");
}

TEST(Module, SwitchesModesOfTheWholeTree) {
  Tree tree;
  EXPECT_TRUE(tree.training() && tree.left.training());
  tree.eval();
  EXPECT_FALSE(tree.training() || tree.left.training() || tree.right.training());
  tree.left.train();
  EXPECT_FALSE(tree.training());
  EXPECT_TRUE(tree.left.training());
}

TEST(Module, DropsGradients) {
  Tree tree;
  for (const Tensor& p : tree.parameters()) p.set_grad(zeros_like(p));
  tree.zero_grad();
  for (const Tensor& p : tree.parameters()) EXPECT_FALSE(p.grad().defined());
}

TEST(Module, VisitsParentsFirst) {
  class Root : public Module {
   public:
    Root() {
      child<Tree>("a");
      child<Leaf>("b");
    }
  } root;
  Names paths;
  root.visit([&](const std::string& path, Module&) { paths.push_back(path); });
  EXPECT_EQ(paths, (Names{"", "a", "a.left", "a.right", "b"}));
}

TEST(ModuleList, NumbersItsModules) {
  class Root : public Module {
   public:
    Root() : blocks(child<ModuleList<Leaf>>("blocks")) {
      for (int i = 0; i < 3; ++i) blocks.append();
    }
    ModuleList<Leaf>& blocks;
  } root;
  EXPECT_EQ(root.blocks.size(), 3u);
  EXPECT_EQ(root.named_parameters()[4].name, "blocks.2.weight");
  EXPECT_TRUE(root.blocks[2].weight.same_as(root.named_parameters()[4].tensor));
  int64_t seen = 0;
  for (Leaf* leaf : root.blocks) seen += leaf->parameter_count();
  EXPECT_EQ(seen, root.parameter_count());
}

}  // namespace
}  // namespace camo
