#include "models/camoxpert/warm_up.h"

#include <gtest/gtest.h>

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

TEST(WarmUpExperts, RefusesToChangeGradients) {
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 2});
  EXPECT_ERROR(warm_up_experts(network, 0, 32, 32), "batch must be at least 1; got 0");
  const NamedTensor last = network.named_parameters().back();
  last.tensor.set_grad(zeros_like(last.tensor));
  EXPECT_ERROR(warm_up_experts(network, 1, 32, 32), "parameters must have no gradients; got one of " + last.name);
}

}  // namespace
}  // namespace camo::test
