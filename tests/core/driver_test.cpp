// What is said of machines whose GPUs can't be used, from the codes that the driver would return.
#ifdef CAMO_WITH_CUDA
#include "core/cuda/driver.h"

#include "core/cuda/runtime.h"
#include "tests/support/test_support.h"

namespace camo::cuda {
namespace {

TEST(Driver, UsableMachinesHaveNoReason) { EXPECT_EQ(why_unusable({cudaSuccess, 2, 13000, 13000}), ""); }

TEST(Driver, ReasonsSayWhatHelps) {
  EXPECT_EQ(why_unusable({cudaErrorInsufficientDriver, 0, 0, 13000}), "no NVIDIA driver is installed; install one");
  EXPECT_EQ(
      why_unusable({cudaErrorInsufficientDriver, 0, 12040, 13000}),
      "the NVIDIA driver is for CUDA 12.4, too old for CUDA 13.0 that camo was built with; install a newer driver");
  EXPECT_EQ(why_unusable({cudaErrorNoDevice, 0, 13000, 13000}),
            "no CUDA device is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(why_unusable({cudaSuccess, 0, 13000, 13000}),
            "no CUDA device is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(why_unusable({cudaErrorSystemNotReady, 0, 13000, 13000}), cudaGetErrorString(cudaErrorSystemNotReady));
}

TEST(Driver, FailedCallsAreNamedWithTheirPlace) {
  EXPECT_ERROR(check(cudaErrorIllegalAddress, "cudaMemcpyAsync(...)", "copy.cu", 93),
               "cuda: cudaMemcpyAsync(...) failed at copy.cu:93: an illegal memory access was encountered "
               "(cudaErrorIllegalAddress)");
}

}  // namespace
}  // namespace camo::cuda
#endif
