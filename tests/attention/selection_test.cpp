// Which implementation a call gets.
#include <cstdlib>

#include "ops/attention/flash.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

/// Sets CAMO_SDPA_BACKEND for its scope.
class BackendVariable {
 public:
  explicit BackendVariable(const char* value) {
    if (const char* before = std::getenv("CAMO_SDPA_BACKEND")) before_ = before;
    setenv("CAMO_SDPA_BACKEND", value, 1);
  }
  ~BackendVariable() {
    if (before_.empty()) unsetenv("CAMO_SDPA_BACKEND");
    else setenv("CAMO_SDPA_BACKEND", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

TEST(FlashSelection, Choice) {
  const auto name = [](int64_t tokens, AttentionBackend backend) {
    return attention_kernel_name(cpu, f32, tokens, tokens, 10, backend);
  };
  const BackendVariable none("");
  EXPECT_EQ(name(16, AttentionBackend::automatic), "math");
  EXPECT_EQ(name(9216, AttentionBackend::automatic), "flash (tiled, f32)");
  EXPECT_EQ(name(16, AttentionBackend::flash), "flash (tiled, f32)");
  EXPECT_EQ(name(9216, AttentionBackend::math), "math");
  {
    const BackendVariable flash("flash");
    EXPECT_EQ(name(16, AttentionBackend::automatic), "flash (tiled, f32)");
    EXPECT_EQ(name(16, AttentionBackend::math), "math");
  }
  {
    const BackendVariable math("math");
    EXPECT_EQ(name(9216, AttentionBackend::automatic), "math");
  }
  const BackendVariable wrong("fast");
  EXPECT_ERROR(name(16, AttentionBackend::automatic), "CAMO_SDPA_BACKEND: must be auto, flash or math; got fast");
}

TEST(FlashSelection, SetBackend) {
  const BackendVariable environment("flash");
  const auto name = [] { return attention_kernel_name(cpu, f32, 16, 16, 10); };
  EXPECT_EQ(attention_backend(), AttentionBackend::flash);
  EXPECT_EQ(name(), "flash (tiled, f32)");
  set_attention_backend(AttentionBackend::math);
  EXPECT_EQ(attention_backend(), AttentionBackend::math);
  EXPECT_EQ(name(), "math");
  set_attention_backend(AttentionBackend::automatic);
  EXPECT_EQ(name(), "flash (tiled, f32)");
}

TEST(FlashSelection, SaysWhyMath) {
  const BackendVariable none("");
  const auto why = [](Device device, DType dtype, int64_t tokens, AttentionBackend backend) {
    return why_math_attention(device, dtype, tokens, tokens, 10, backend);
  };
  EXPECT_EQ(why(cpu, f32, 9216, AttentionBackend::automatic), "");
  EXPECT_EQ(why(cpu, f32, 16, AttentionBackend::automatic), "math is faster at this size");
  EXPECT_EQ(why(cpu, f32, 9216, AttentionBackend::math), "math was asked for");
  EXPECT_EQ(why(Device::cuda(0), f64, 16, AttentionBackend::automatic), "no flash kernel for f64 on cuda:0");
  EXPECT_EQ(why(cpu, bf16, 9216, AttentionBackend::automatic), "");  // computed in f32
}

TEST(FlashSelection, KernelOfAPass) {
  using flash::Kernel;
  const auto kernel = [](Device device, DType dtype, int64_t tokens, int64_t width, flash::Pass pass, bool plain) {
    flash::AttentionCase call{device, dtype, tokens, tokens, width, plain};
    call.pass = pass;
    return flash::kernel_of(call);
  };
  EXPECT_EQ(kernel(cpu, bf16, 16, 8, flash::Pass::backward, true), Kernel::tiled);
  const Device device = default_device();
  if (!device.is_cuda()) return;
  if (!flash_takes(bf16, 10)) {  // a GPU before capability 8.0
    EXPECT_EQ(kernel(device, f16, 9216, 10, flash::Pass::forward, true), Kernel::mma);
    return;
  }
  EXPECT_EQ(kernel(device, f32, 2304, 20, flash::Pass::forward, true), Kernel::mma);
  EXPECT_EQ(kernel(device, bf16, 2304, 20, flash::Pass::forward, false), Kernel::mma);
  EXPECT_EQ(kernel(device, bf16, 9216, 10, flash::Pass::forward, true), Kernel::narrow);
  if (kernel(device, bf16, 4096, 64, flash::Pass::backward, true) != Kernel::wgmma) return;  // no Hopper GPU
  EXPECT_EQ(kernel(device, bf16, 144, 64, flash::Pass::forward, true), Kernel::resident);
  EXPECT_EQ(kernel(device, f16, 720, 49, flash::Pass::forward, true), Kernel::resident);
  EXPECT_EQ(kernel(device, f16, 721, 64, flash::Pass::forward, true), Kernel::wgmma);
  EXPECT_EQ(kernel(device, bf16, 143, 64, flash::Pass::forward, true), Kernel::wgmma);
  EXPECT_EQ(kernel(device, bf16, 144, 73, flash::Pass::forward, true), Kernel::resident);
  EXPECT_EQ(kernel(device, bf16, 100, 73, flash::Pass::forward, true), Kernel::resident);
  EXPECT_EQ(kernel(device, bf16, 99, 73, flash::Pass::forward, true), Kernel::narrow);
  EXPECT_EQ(kernel(device, bf16, 400, 64, flash::Pass::forward, false), Kernel::mma);
  EXPECT_EQ(kernel(device, bf16, 400, 64, flash::Pass::backward, true), Kernel::short_wgmma);
  EXPECT_EQ(kernel(device, f16, 704, 22, flash::Pass::backward, true), Kernel::short_wgmma);
  EXPECT_EQ(kernel(device, f16, 705, 64, flash::Pass::backward, true), Kernel::wgmma);
  EXPECT_EQ(kernel(device, bf16, 400, 64, flash::Pass::backward, false), Kernel::mma);
}

TEST(FlashSelection, SaysWhyNot) {
  const flash::AttentionCase in_double{Device::cuda(0), f64, 10, 10, 8};
  const auto choice = flash::choose(in_double, AttentionBackend::flash);
  EXPECT_FALSE(choice.flash);
  EXPECT_EQ(choice.why_not, "no flash kernel for f64 on cuda:0");
  EXPECT_EQ(flash::choose(in_double, AttentionBackend::automatic).why_not, "");
  if (!default_device().is_cuda()) return;
  if (!flash_takes(bf16, 10)) {
    const auto why = flash::choose({default_device(), bf16, 10, 10, 16}, AttentionBackend::flash).why_not;
    EXPECT_TRUE(why.starts_with("it needs compute capability 8.0; cuda:0 has ")) << why;
    return;
  }
  EXPECT_EQ(flash::choose({default_device(), f32, 10, 10, 257}, AttentionBackend::flash).why_not,
            "it takes head dimensions up to 256; got 257");
  // Beyond 128, only the kernels for Hopper GPUs go, which know no mask.
  EXPECT_EQ(flash::choose({default_device(), bf16, 10, 10, 129, false}, AttentionBackend::flash).why_not,
            "it takes head dimensions up to 128; got 129");
  // f64 is asked for, and computed by math after a warning.
  const Tensor x = random_normal({1, 5, 1, 4}, 1, f64);
  EXPECT_TRUE(all_close(scaled_dot_product_attention(x, x, x, {.backend = AttentionBackend::flash}),
                        scaled_dot_product_attention(x, x, x), 0));
}

}  // namespace
}  // namespace camo
