// Whole numbers on their way to the host.
#include "core/host_copy.h"

#include "ops/shape_ops.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

TEST(HostCopy, BringsTheNumbers) {
  const Tensor x = from_vector(std::vector<int64_t>{3, -1, int64_t{1} << 40}, {3});
  for (int i = 0; i < 3; ++i) {
    const HostCopy copy(x);
    EXPECT_EQ(copy.wait(), (std::vector<int64_t>{3, -1, int64_t{1} << 40}));
    EXPECT_EQ(copy.wait(), x.to_vector<int64_t>());
  }
  EXPECT_TRUE(HostCopy(empty({0}, i64)).wait().empty());
}

TEST(HostCopy, SaysWhatItNeeds) {
  EXPECT_ERROR(HostCopy(zeros({2}, f32)), "host copy: needs contiguous i64; got f32 [2]");
  EXPECT_ERROR(HostCopy(transpose(zeros({2, 3}, i64), 0, 1)), "host copy: needs contiguous i64; got i64 [3, 2]");
}

}  // namespace
}  // namespace camo::test
