#include "nn/optim/schedule.h"

#include <cmath>
#include <vector>

#include "tests/support/test_support.h"

namespace camo {
namespace {

/// Every learning rate of torch.optim.lr_scheduler.OneCycleLR, cosine annealing.
void expect_rates(const OneCycleSchedule& schedule, const std::vector<double>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(schedule.lr(static_cast<int64_t>(i)), expected[i], 1e-14 * schedule.max_lr) << "step " << i;
  }
}

TEST(OneCycleSchedule, MatchesPyTorch) {
  expect_rates({.max_lr = 2.5e-4, .total_steps = 20, .warmup_fraction = 0.1},
               {9.999999999999999e-06,  0.00025,
                0.0002481009767226495,  0.00024246160775192815,
                0.00023325324246035293, 0.00022075567236765065,
                0.00020534862981701253, 0.00018750024999999998,
                0.00016775284690563692, 0.00014670643538427746,
                0.00012500049999999998, 0.00010329456461572255,
                8.224815309436308e-05,  6.250075000000003e-05,
                4.4652370182987425e-05, 2.924532763234932e-05,
                1.674775753964705e-05,  7.539392248071853e-06,
                1.9000232773505036e-06, 1e-09});
  expect_rates({.max_lr = 1, .total_steps = 10, .warmup_fraction = 0.3},
               {0.04, 0.52, 1.0, 0.9504846320134737, 0.8117456539497631, 0.6112620219362893, 0.38874197806371075,
                0.18825834605023697, 0.049519367986526286, 4e-06});
}

TEST(OneCycleSchedule, PeaksBetweenStepsAsPyTorchDoes) {
  expect_rates({.max_lr = 0.1, .total_steps = 7, .warmup_fraction = 0.3},
               {0.004, 0.09805566273349588, 0.09190443762697106, 0.06726838364805451, 0.035773877573965704,
                0.00992967918932656, 4e-07});
}

TEST(OneCycleSchedule, KeepsTheLastRate) {
  const OneCycleSchedule schedule{.max_lr = 1, .total_steps = 10};
  EXPECT_EQ(schedule.lr(10), schedule.lr(9));
  EXPECT_EQ(schedule.lr(1000), schedule.lr(9));
}

TEST(OneCycleSchedule, WorksAtTheEdges) {
  EXPECT_DOUBLE_EQ((OneCycleSchedule{.max_lr = 1, .total_steps = 10, .warmup_fraction = 0.1}.lr(0)), 1);
  EXPECT_DOUBLE_EQ((OneCycleSchedule{.max_lr = 1, .total_steps = 10, .warmup_fraction = 1}.lr(9)), 1);
  EXPECT_NEAR((OneCycleSchedule{.max_lr = 1, .total_steps = 1}.lr(0)), 4e-6, 1e-15);
}

TEST(OneCycleSchedule, ChecksItsArguments) {
  EXPECT_ERROR(OneCycleSchedule{}.lr(-1), "step must not be negative");
  EXPECT_ERROR(OneCycleSchedule{.total_steps = 0}.lr(0), "total_steps positive");
  EXPECT_ERROR(OneCycleSchedule{.warmup_fraction = 1.5}.lr(0), "warmup_fraction must be in [0, 1]");
  EXPECT_ERROR((OneCycleSchedule{.div_factor = 0}.lr(0)), "the divisors positive; got max_lr 0.001, div_factor 0");
  EXPECT_ERROR((OneCycleSchedule{.final_div_factor = -1}.lr(0)), "final_div_factor -1");
  EXPECT_ERROR((OneCycleSchedule{.max_lr = std::nan("")}.lr(0)), "max_lr must not be negative");
}

TEST(CosineSchedule, WarmsUpAndAnneals) {
  const CosineSchedule schedule{.max_lr = 1, .min_lr = 0.2, .warmup_steps = 4, .total_steps = 12};
  EXPECT_EQ(schedule.lr(0), 0);
  EXPECT_DOUBLE_EQ(schedule.lr(1), 0.25);
  EXPECT_DOUBLE_EQ(schedule.lr(4), 1);
  EXPECT_DOUBLE_EQ(schedule.lr(8), 0.6);
  EXPECT_DOUBLE_EQ(schedule.lr(12), 0.2);
  EXPECT_DOUBLE_EQ(schedule.lr(99), 0.2);
  EXPECT_ERROR((CosineSchedule{.warmup_steps = 5, .total_steps = 4}.lr(0)), "warmup_steps at most total_steps");
}

}  // namespace
}  // namespace camo
