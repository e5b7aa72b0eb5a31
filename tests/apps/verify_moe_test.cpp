// camoxpert verify-moe, and that its checks see what is wrong.
#include <gmock/gmock.h>

#include <cmath>

#include "apps/camoxpert/moe_checks.h"
#include "models/camoxpert/checkpoint.h"
#include "tests/apps/small_data.h"

namespace camo {
namespace {

using test::expect_failure;
using test::expect_success;
using test::small_data;
using ::testing::HasSubstr;

std::string verify() {
  return "verify-moe --dataset-path " + small_data().data() + " --checkpoint " + small_data().checkpoint();
}

TEST(VerifyMoe, ChecksRoutingAndShowsUsage) {
  const std::string output = expect_success(verify() + " --batch-size 3");
  for (const char* text :
       {"5 pictures, edgenext_xx_small at 64 px, 7 experts, 3 per picture", "the softmax of the chosen logits",
        "the weighted sum of the chosen experts", "share of the choices", "6 contrast"})
    EXPECT_THAT(output, HasSubstr(text));
  EXPECT_THAT(output, ::testing::Not(HasSubstr("WRONG")));
  EXPECT_THAT(expect_success(verify() + " --num-samples 2"), HasSubstr("2 pictures"));
}

TEST(VerifyMoe, LeavesOutUnpairedPictures) {
  const std::filesystem::path data = small_data().copy_of_data("unpaired");
  ASSERT_TRUE(std::filesystem::remove(data / "Test/GT/00001.png"));
  const std::string command =
      "verify-moe --dataset-path " + data.string() + " --checkpoint " + small_data().checkpoint();
  expect_failure(command, 3, "00001");
  const std::string output = expect_success(command + " --on-bad-image skip:1");
  EXPECT_THAT(output, HasSubstr("left out: "));
  EXPECT_THAT(output, HasSubstr("4 pictures, edgenext_xx_small"));
}

TEST(VerifyMoe, Refuses) {
  expect_failure(verify() + " --num-samples -1", 2, "--num-samples: must not be negative; got -1");
  expect_failure(verify() + " --batch-size 0", 2, "--batch-size: must be at least 1; got 0");
  expect_failure(verify() + " --img-size 8", 2, "--img-size: must be 0 or within 32 and 4096; got 8");
}

TEST(VerifyMoe, SeesAnExpertThatBreaks) {
  const auto loaded = load_checkpoint(small_data().checkpoint());
  for (const NamedTensor& parameter : loaded.network->named_parameters()) {
    if (parameter.name.find("moe_layers.2.experts") == std::string::npos) continue;
    parameter.import(full(parameter.exported_shape(), NAN, f32, cpu));
  }
  const std::string path = small_data().path("broken.safetensors");
  save_checkpoint(path, *loaded.network, loaded.info);
  expect_failure("verify-moe --dataset-path " + small_data().data() + " --checkpoint " + path, 1,
                 "the routing breaks a rule");
}

TEST(StageRouting, BalanceIsOneWhenAllAreChosenEqually) {
  app::StageRouting stage{{4, 4, 4, 4}, {1, 2, 3, 4}};
  EXPECT_NEAR(stage.balance(), 1, 1e-12);
  EXPECT_DOUBLE_EQ(stage.mean_weight(1), 0.5);
  stage.counts = {8, 0, 0, 0};
  EXPECT_NEAR(stage.balance(), 0, 1e-12);
  EXPECT_DOUBLE_EQ(stage.share(0), 1);
}

}  // namespace
}  // namespace camo
