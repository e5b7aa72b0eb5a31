#include "ops/reduce.h"

#include "ops/detail/column_sum.h"
#include "ops/shape_ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;
using CudaReduce = CudaTest;

struct ReduceCase {
  Shape x, axes;
};
// Columns (few, odd and many; short and long), rows (short, odd, long), all, the middle, several passes.
const ReduceCase kCases[] = {{{30000, 24}, {0}},
                             {{2500, 73}, {0}},
                             {{700, 2336}, {0}},
                             {{17, 40000}, {0}},
                             {{5, 3001}, {0}},
                             {{64, 96, 10}, {1}},
                             {{7, 576, 168}, {1}},
                             {{4000, 3, 8}, {1}},
                             {{3000, 24}, {1}},
                             {{999, 73}, {1}},
                             {{40, 5000}, {1}},
                             {{6, 100001}, {1}},
                             {{300001}, {0}},
                             {{1 << 20}, {0}},
                             {{3}, {0}},
                             {{2, 33, 35, 20}, {1, 2}},
                             {{3, 50, 4, 20}, {0, 2}},
                             {{6, 30, 5, 40}, {1, 3}},
                             {{2, 3, 2, 3, 2}, {0, 2, 4}}};

TEST_F(CudaReduce, AgreesWithTheCpuInEveryDtype) {
  for (const ReduceCase& c : kCases) {
    SCOPED_TRACE(c.x.str() + " over " + c.axes.str());
    for (DType dtype : {f32, f16, bf16, f64}) {
      // Long sums stay away from 0, to which the tolerance is relative, and within f16.
      const Tensor aligned = to(uniform(c.x, f64, -1, 1.05), dtype);
      for (const Tensor& x : {aligned, misaligned(aligned)}) {
        const Tensor want = on_cpu_in_double(x);
        // The accumulators are double: one rounding of the result, and those of four elements added in f32.
        const double tolerance = std::max(1.5 * rounding_of(dtype), dtype == f64 ? 1e-13 : 3e-7);
        EXPECT_TRUE(all_close(sum(x, c.axes), sum(want, c.axes), tolerance)) << name(dtype);
        EXPECT_TRUE(all_close(mean(x, c.axes, true), mean(want, c.axes, true), tolerance)) << name(dtype);
        EXPECT_TRUE(all_close(norm(x, c.axes), norm(want, c.axes), tolerance)) << name(dtype);
        EXPECT_EQ(max_difference(max(x, c.axes), max(want, c.axes)), 0) << name(dtype);
        EXPECT_EQ(max_difference(min(x, c.axes), min(want, c.axes)), 0) << name(dtype);
        EXPECT_TRUE(bitwise_equal(sum(x, c.axes), sum(x, c.axes)));
      }
    }
  }
}

TEST_F(CudaReduce, GradientsOfGatesAreFusedSums) {
  const Tensor x = uniform({4, 40, 41, 73}, f32), dy = uniform({4, 40, 41, 73}, f32);
  for (const Shape& shape : {Shape{73}, Shape{4, 1, 1, 73}, Shape{4, 40, 41, 1}, Shape{}}) {
    const Tensor gate = uniform(shape, f32).set_requires_grad(true);
    backward(x * gate, dy);
    EXPECT_TRUE(all_close(gate.grad(), sum_to(on_cpu_in_double(x) * on_cpu_in_double(dy), shape), 1e-6));
  }
}

TEST_F(CudaReduce, ColumnSumsOfHalvesMayBeFloats) {
  for (DType dtype : {f32, f16, bf16, f64}) {
    for (const Shape& shape : {Shape{20000, 24}, Shape{3, 50, 73}, Shape{1, 8}, Shape{0, 4}}) {
      const Tensor x = to(uniform(shape, f64), dtype);
      const Tensor out = empty({x.size(-1)}, dtype == f64 ? f64 : f32);
      detail::column_sum_cuda(out, x);
      const Tensor want = sum_to(on_cpu_in_double(x), {x.size(-1)});
      EXPECT_TRUE(all_close(out, want, 1e-6)) << name(dtype) << " " << shape.str();
    }
  }
}

TEST_F(CudaReduce, ArgmaxAgreesWithTheCpu) {
  for (DType dtype : {f32, f64, f16, i64}) {
    const Tensor x = to(uniform({9, 70, 5}, f64, 0, 20), dtype);
    const Tensor host = to(to(x, cpu), dtype == i64 ? i64 : f64);
    for (int axis : {0, 1, 2}) EXPECT_TRUE(bitwise_equal(argmax(x, axis), argmax(host, axis)));
  }
}

}  // namespace
}  // namespace camo
