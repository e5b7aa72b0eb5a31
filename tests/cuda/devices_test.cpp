// Tensors on several devices: what waits for what, what is set up, and what operands of different devices are told.
#include <dlfcn.h>

#include <cmath>

#include "core/host_copy.h"
#include "nn/layers.h"
#include "nn/optim/adamw.h"
#include "nn/optim/ema.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {
namespace {

using namespace test;
using CudaDevices = CudaTest;

/// Skipped where there are fewer GPUs.
class TwoGpus : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped() && cuda_device_count() < 2) GTEST_SKIP() << "one GPU";
  }
  const Device other_ = Device::cuda(1);
};

/// A parameter with a gradient of ones.
NamedTensor parameter_on(Device device, const std::string& name) {
  const Tensor x = ones({3}, f32, device).set_requires_grad(true);
  x.set_grad(ones({3}, f32, device));
  return {name, x};
}

TEST_F(CudaDevices, GradientsLieWhereTheirTensorsDo) {
  const Tensor x = ones({3}, f32).set_requires_grad(true), y = x * 2;
  EXPECT_ERROR(backward(y, ones({3}, f32, cpu)),
               "backward: the gradient must be on cuda:0 as the output is; got one on cpu");
  EXPECT_ERROR(x.set_grad(ones({3}, f32, cpu)), "set_grad: the gradient must be on cuda:0; got one on cpu");
  backward(y, ones({3}, f32));
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(3, 2));
}

TEST_F(CudaDevices, AdamWChecksThemBeforeItCounts) {
  AdamW optimizer({{.parameters = {parameter_on(kGpu, "a")}}}, AdamWOptions{});
  EXPECT_ERROR(optimizer.step(full({}, 1, f64, cpu)), "AdamW: the guard must be on cuda:0; got cpu");
  EXPECT_EQ(optimizer.step_counts(), std::vector<int64_t>{0});
  optimizer.step(full({}, 1, f64));
  EXPECT_EQ(optimizer.step_counts(), std::vector<int64_t>{1});
}

TEST_F(TwoGpus, CopiesToTheHostAreMadeByTheirOwn) {
  for (const Device device : {kGpu, other_, kGpu}) {
    const std::vector<int64_t> values{1, 2, device.index};
    EXPECT_EQ(HostCopy(from_vector(values, {3}, device)).wait(), values);
  }
}

TEST_F(CudaDevices, NormsNeedGradientsOnOne) {
  const Tensors parameters{parameter_on(cpu, "a").tensor, parameter_on(kGpu, "b").tensor};
  EXPECT_ERROR(gradient_norm(parameters), "gradient_norm: gradients must lie on one device; got cpu and cuda:0");
  EXPECT_ERROR(clip_gradients(parameters, 1), "clip_gradients: gradients must lie on one device; got cpu and cuda:0");
  EXPECT_NEAR(gradient_norm({parameters[1]}), std::sqrt(3), 1e-6);
}

TEST_F(CudaDevices, AnAverageWantsItsGuardOnTheModels) {
  const Linear model({.in = 2, .out = 3});
  Ema ema(model, 0.5);
  EXPECT_ERROR(ema.update(model, full({}, 1, f64, cpu)), "ema: the guard must be on cuda:0, as the model is; got cpu");
  ema.update(model, full({}, 1, f64));
}

TEST_F(TwoGpus, CopiesWaitForTheSourceAndHoldItsMemory) {
  const Tensor weight = uniform({2048, 2048}, f32, -0.01, 0.01), x = ones({2048, 2048}, f32);
  for (int round = 0; round < 5; ++round) {
    Tensor y = x;
    for (int i = 0; i < 20; ++i) y = matmul(y, weight) + 1;  // keeps the first GPU busy while the copy is asked for
    const Tensor there = to(y, other_), wanted = to(y, cpu);
    const void* const address = y.raw_data();
    y = {};
    const Tensor next = full({2048, 2048}, -7, f32);  // in the memory that the copy may still read
    EXPECT_EQ(next.raw_data(), address);
    EXPECT_TRUE(bitwise_equal(to(there, cpu), wanted)) << round;
    EXPECT_TRUE(bitwise_equal(to(to(there, kGpu), cpu), wanted)) << round;
  }
}

TEST_F(TwoGpus, AdamWNeedsOne) {
  AdamW optimizer({{.parameters = {parameter_on(kGpu, "a"), parameter_on(other_, "b")}}}, AdamWOptions{});
  EXPECT_ERROR(optimizer.step(), "AdamW: parameters must lie on one GPU; got cuda:0 and cuda:1");
  EXPECT_EQ(optimizer.step_counts(), (std::vector<int64_t>{0, 0}));
}

#ifdef CAMO_WITH_CUDA
/// Whether this process has set up a device, which takes hundreds of megabytes there.
bool is_set_up(int device) {
  using GetState = int (*)(int, unsigned*, int*);
  const auto get_state =
      reinterpret_cast<GetState>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuDevicePrimaryCtxGetState"));
  unsigned flags = 0;
  int active = 0;
  EXPECT_EQ(get_state(device, &flags, &active), 0);
  return active != 0;
}

/// The test is of use alone: others may have set up what it looks at.
TEST_F(TwoGpus, WorkOnOneSetsUpNoOther) {
  const bool first = is_set_up(0), second = is_set_up(1);
  for (int i = 0; i < cuda_device_count(); ++i) EXPECT_GT(cuda::device_info(Device::cuda(i)).multiprocessors, 0);
  EXPECT_EQ(is_set_up(0), first);
  EXPECT_EQ(is_set_up(1), second);
  const Tensor x = ones({100}, f32, other_);
  EXPECT_EQ(sum(gelu(x) * x).to_vector<float>().size(), 1u);
  EXPECT_TRUE(is_set_up(1));
  EXPECT_EQ(is_set_up(0), first);
}
#endif

}  // namespace
}  // namespace camo
