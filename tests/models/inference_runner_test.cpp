#include "models/camoxpert/inference_runner.h"

#include <gtest/gtest.h>

#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

const CamoXpertSpec kSmall{.backbone = "edgenext_xx_small", .num_experts = 3, .dropout = 0.5};

TEST(InferenceRunner, ComputesWhatTheNetworkComputes) {
  CamoXpert network(kSmall);
  network.to(default_device(), f32);
  network.eval();
  InferenceRunner run(network);
  for (const int64_t batch : {1, 2, 1, 1, 1}) {
    const Tensor x = uniform({batch, 32, 40, 3}, f32);
    const Tensor logits = run(x);
    const NoGrad no_grad;
    const CamoXpertOutput wanted = network(x);
    EXPECT_FALSE(logits.requires_grad());
    EXPECT_TRUE(bitwise_equal(logits, wanted.logits));
    for (size_t s = 0; s < 4; ++s) {
      EXPECT_EQ(run.routing()[s].chosen, wanted.routing[s].chosen) << "stage " << s;
      EXPECT_EQ(run.routing()[s].counts, wanted.routing[s].counts) << "stage " << s;
      EXPECT_DOUBLE_EQ(run.routing()[s].aux, wanted.routing[s].aux) << "stage " << s;
    }
  }
}

TEST(InferenceRunner, SaysWhatItNeeds) {
  EXPECT_ERROR(parse_cuda_graphs("maybe"), "--cuda-graphs: must be auto, on or off; got 'maybe'");
  EXPECT_EQ(parse_cuda_graphs("auto"), CudaGraphs::automatic);
  EXPECT_EQ(parse_cuda_graphs("off"), CudaGraphs::off);
  CamoXpert network(kSmall);
  network.to(cpu, f32);
  EXPECT_ERROR(InferenceRunner(network, parse_cuda_graphs("on")), "--cuda-graphs on: needs a GPU; got --device cpu");
  CamoXpertSpec many = kSmall;
  many.num_experts = 65;
  EXPECT_ERROR(InferenceRunner(CamoXpert(many), CudaGraphs::on),
               "--cuda-graphs on: records networks of at most 64 experts; got 65; use auto or off");
  InferenceRunner run(network);
  EXPECT_ERROR(run(to(uniform({1, 32, 32, 3}, f32), cpu)), "must be in evaluation mode; call eval()");
}

}  // namespace
}  // namespace camo::test
