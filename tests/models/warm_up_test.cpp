#include "models/camoxpert/warm_up.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/op_observer.h"
#include "core/random.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

TEST(WarmUpExperts, ChangesNothing) {
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 7, .dropout = 0.3});
  Tensors copies;
  for (const Tensor& parameter : network.parameters()) copies.push_back(clone(parameter));
  const RandomKey state = default_generator().state();
  {
    const NoGrad no_grad;  // as a caller may have it
    warm_up_experts(network, 2, 32, 32);
  }
  EXPECT_EQ(default_generator().state().stream, state.stream);
  const Tensors parameters = network.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(parameters[i], copies[i]));
    EXPECT_FALSE(parameters[i].grad().defined());
  }
  EXPECT_TRUE(network.training());
}

TEST(WarmUpExperts, RunsGroupsOfEverySize) {
  struct Sizes final : OpObserver {
    void recorded(const Node&, std::span<const Tensor>, std::span<const Tensor> inputs) override {
      if (inputs[0].dims() == 4) forward.insert(inputs[0].size(0));
    }
    void backward_begins(const Node&) override {}
    void backward_ended(const Node&) override {}
    void differentiated(const Node&, std::span<const Tensor> gradients) override {
      if (gradients[0].defined() && gradients[0].dims() == 4) backward.insert(gradients[0].size(0));
    }
    std::set<int64_t> forward, backward;
  } sizes;
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 2, .dropout = 0});
  observe_ops(&sizes);
  warm_up_experts(network, 3, 32, 32);
  observe_ops(nullptr);
  for (int64_t n = 1; n <= 3; ++n) EXPECT_TRUE(sizes.forward.contains(n) && sizes.backward.contains(n)) << n;
}

// Two pictures too many for the memory.
TEST(WarmUpExperts, LeavesOutGroupsThatDoNotFit) {
  struct Memory final : OpObserver {
    explicit Memory(int64_t pictures) : most(pictures) {}
    void recorded(const Node&, std::span<const Tensor>, std::span<const Tensor> inputs) override {
      if (inputs[0].dims() != 4 || inputs[0].size(1) == 1) return;  // no map of the experts
      largest = std::max(largest, inputs[0].size(0));
      if (inputs[0].size(0) > most) fail(ErrorCode::out_of_memory, "memory: nothing left");
    }
    void backward_begins(const Node&) override {}
    void backward_ended(const Node&) override {}
    void differentiated(const Node&, std::span<const Tensor>) override {}
    int64_t most, largest = 0;
  };
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 2, .dropout = 0});
  Memory two(2), none(0);
  observe_ops(&two);
  warm_up_experts(network, 4, 32, 32);
  EXPECT_EQ(two.largest, 3);
  for (const Tensor& parameter : network.parameters()) EXPECT_FALSE(parameter.grad().defined());
  observe_ops(&none);
  EXPECT_ERROR(warm_up_experts(network, 4, 32, 32), "memory: nothing left");
  observe_ops(nullptr);
}

TEST(WarmUpExperts, RefusesToChangeGradients) {
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 2});
  EXPECT_ERROR(warm_up_experts(network, 0, 32, 32), "batch must be at least 1; got 0");
  const NamedTensor last = network.named_parameters().back();
  last.tensor.set_grad(zeros_like(last.tensor));
  EXPECT_ERROR(warm_up_experts(network, 1, 32, 32), "parameters must have no gradients; got one of " + last.name);
}

}  // namespace
}  // namespace camo::test
