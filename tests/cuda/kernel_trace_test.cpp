// Traces of what ran on a GPU.
#include "tests/cuda/cuda_test.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/kernel_trace.h"
#include "ops/elementwise.h"
#endif

namespace camo {
namespace {

using namespace test;
using CudaKernelTrace = CudaTest;

#ifdef CAMO_WITH_CUDA
TEST_F(CudaKernelTrace, SeesKernelsAndCopiesOneTraceAfterTheOther) {
  if (const std::string reason = cuda::why_no_kernel_trace(); !reason.empty()) GTEST_SKIP() << reason;
  using Tags = cuda::KernelTrace::Tags;
  const Tensor x = full({1000}, 1);
  for (const Tags tags : {Tags::off, Tags::on, Tags::off}) {
    cuda::KernelTrace trace(tags);
    constexpr uint64_t kTag = 7;
    if (tags == Tags::on) trace.tag(kTag);
    to(x + x, cpu);
    int kernels = 0, copies = 0;
    int64_t begin = 0;
    for (const cuda::DeviceActivity& activity : trace.activities()) {
      ++(activity.name == "copy" ? copies : kernels);
      EXPECT_EQ(activity.tag, tags == Tags::on ? kTag : 0) << activity.name;
      EXPECT_GE(activity.begin, begin) << "activities are not in their order";
      EXPECT_GE(activity.end, activity.begin);
      begin = activity.begin;
    }
    EXPECT_EQ(kernels, 1);
    EXPECT_EQ(copies, 1);
  }
}
#endif

}  // namespace
}  // namespace camo
