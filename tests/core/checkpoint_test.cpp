#include "core/autograd.h"
#include "core/random.h"
#include "tests/core/product.h"

namespace camo {
namespace {

using namespace test;

TEST(Checkpoint, WantsTheSameOfBothRuns) {
  const Tensor x = leaf({1, 2});
  int runs = 0;
  const Tensor y = checkpoint([&](const Tensors& in) { return runs++ == 0 ? clone(in[0]) : full({1}, 2, f64); }, {x});
  EXPECT_ERROR(backward(y, ones({2}, f64)),
               "checkpoint: fn must compute the same both times it runs; got f64 [2], then f64 [1]");
}

TEST(Checkpoint, GivesTheSameGradientsForLessMemory) {
  const Tensor x = leaf({2, 3}), w = leaf({5, 7});
  int runs = 0, recomputed = 0;
  const auto fn = [&](const Tensors& in) {
    ++runs;
    recomputed += is_recomputing();
    return product(product(in[0], w), in[0]);
  };
  const Tensor y = product(checkpoint(fn, {x}), x);  // w x^3
  EXPECT_EQ(runs, 1);
  backward(y, ones2());
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(recomputed, 1);
  EXPECT_FALSE(is_recomputing());
  EXPECT_EQ(grad_of(x), (std::vector<double>{3 * 5 * 4, 3 * 7 * 9}));
  EXPECT_EQ(grad_of(w), (std::vector<double>{8, 27}));
}

TEST(Checkpoint, ParametersGetGradientsWhenNoInputNeedsOne) {
  const Tensor w = leaf({5, 7});
  const Tensor y = checkpoint([&](const Tensors& in) { return product(in[0], w); }, {ones2()});
  backward(y, ones2());
  EXPECT_EQ(grad_of(w), kOnes);
}

TEST(Checkpoint, AFailedSecondRunLeavesTheGeneratorAlone) {
  int runs = 0;
  const Tensor x = leaf({1, 2});
  const Tensor y = checkpoint(
      [&](const Tensors& in) {
        if (++runs == 2) throw Error(ErrorCode::general, "the second run");
        default_generator().next();
        return product(in[0], in[0]);
      },
      {x});
  const RandomKey before = default_generator().state();
  EXPECT_ERROR(backward(y, ones({2}, f64)), "the second run");
  EXPECT_EQ(default_generator().state().stream, before.stream);
}

TEST(Checkpoint, RepeatsItsRandomDraws) {
  seed_everything(4);
  const Tensor x = leaf({2, 3});
  std::vector<std::vector<double>> draws;
  const auto fn = [&](const Tensors& in) {
    const Tensor noise = random_uniform({2}, 0, 1, f64);
    draws.push_back(noise.to_vector<double>());
    return product(in[0], noise);
  };
  const Tensor y = checkpoint(fn, {x});
  const RandomKey after = default_generator().state();
  backward(y, ones2());
  ASSERT_EQ(draws.size(), 2u);
  EXPECT_EQ(draws[0], draws[1]);
  EXPECT_EQ(default_generator().state().stream, after.stream);
}

}  // namespace
}  // namespace camo
