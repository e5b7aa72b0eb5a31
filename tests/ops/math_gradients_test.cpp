#include "nn/gradcheck.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

void check(const std::vector<GradientCase>& cases) {
  for (const GradientCase& item : cases) {
    const GradcheckResult result = gradcheck(item.fn, item.inputs(), item.options);
    EXPECT_TRUE(result.ok) << item.op << ", " << item.variant << ": " << result.message;
  }
}

TEST(MathGradients, MatrixProductsSoftmaxAttention) { check(matmul_gradient_cases()); }
TEST(MathGradients, NormalisationsDropoutLosses) { check(norm_gradient_cases()); }

}  // namespace
}  // namespace camo
