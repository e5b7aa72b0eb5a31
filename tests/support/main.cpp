// The main function of every test program: runs the tests on the device that CAMO_TEST_DEVICE names (default: cpu).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "core/random.h"
#include "core/tensor.h"

namespace {

constexpr int kSkipped = 77;  // ctest's SKIP_RETURN_CODE

/// Tests begin with the device as default_device(), whatever the one before left there, and draw the same random
/// numbers alone and among others; --gtest_random_seed=N changes them.
class DefaultDevice : public ::testing::EmptyTestEventListener {
 public:
  explicit DefaultDevice(camo::Device device) : device_(device) {}
  void OnTestStart(const ::testing::TestInfo&) override {
    camo::set_default_device(device_);
    camo::seed_everything(static_cast<uint64_t>(GTEST_FLAG_GET(random_seed)));
  }

 private:
  camo::Device device_;
};

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const char* named = std::getenv("CAMO_TEST_DEVICE");
  camo::Device device = camo::cpu;
  try {
    if (named != nullptr) device = camo::parse_device(named);
  } catch (const camo::Error& error) {
    std::printf("CAMO_TEST_DEVICE: %s\n", error.what());
    return error.code() == camo::ErrorCode::device ? kSkipped : error.exit_code();
  }
  if (std::getenv("CAMO_TEST_NEEDS_GPU") != nullptr && !camo::why_no_cuda().empty()) {
    std::printf("skipped, all tests need a GPU: %s\n", camo::why_no_cuda().c_str());
    return kSkipped;
  }
  std::printf("tests on %s\n", device.str().c_str());
  ::testing::UnitTest::GetInstance()->listeners().Append(new DefaultDevice(device));  // owned by GoogleTest
  return RUN_ALL_TESTS();
}
