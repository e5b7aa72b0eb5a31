#include "core/autocast.h"

#include "tests/support/test_support.h"

namespace camo {
namespace {

using namespace test;

TEST(Autocast, ScopesNest) {
  EXPECT_FALSE(autocast_active());
  EXPECT_EQ(autocast_dtype(), f32);
  {
    const Autocast outer(bf16);
    EXPECT_TRUE(autocast_active());
    {
      const Autocast inner(f32);
      EXPECT_TRUE(autocast_active());
      EXPECT_EQ(autocast_dtype(), f32);
    }
    EXPECT_EQ(autocast_dtype(), bf16);
  }
  EXPECT_FALSE(autocast_active());
}

TEST(Autocast, OfF32AloneIsNoScope) {
  const Autocast scope(f32);
  EXPECT_FALSE(autocast_active());
}

TEST(Autocast, RefusesOtherDtypes) {
  EXPECT_ERROR(Autocast{f64}, "autocast: the dtype must be bf16, f16 or f32; got f64");
  EXPECT_ERROR(Autocast{i64}, "autocast: the dtype must be bf16, f16 or f32; got i64");
}

}  // namespace
}  // namespace camo
