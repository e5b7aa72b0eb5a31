// What tests that need a GPU share: skipping without one, and comparisons with the CPU in double precision.
#pragma once

#include <functional>

#include "ops/elementwise.h"
#include "tests/support/test_support.h"

namespace camo::test {

/// Skipped without a GPU; tensors are made on cuda:0 unless a test names another device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << why_no_cuda();
    set_default_device(Device::cuda());
  }
};

/// Half of the distance between 1 and the next number.
inline double rounding_of(DType dtype) {
  switch (dtype) {
    case DType::f16: return 0x1p-11;
    case DType::bf16: return 0x1p-8;
    case DType::f32: return 0x1p-24;
    default: return 0x1p-53;
  }
}

/// The same numbers in f64 on the CPU.
inline Tensor on_cpu_in_double(const Tensor& x) { return to(to(x.detach(), cpu), f64); }

using TensorFn = std::function<Tensor(const Tensors&)>;

/// fn on CUDA in the inputs' dtype agrees with fn on the CPU in f64, both the result and the gradients, but for
/// `roundings` of the largest element.
inline void expect_cuda_agrees(const TensorFn& fn, const Tensors& inputs, double roundings) {
  Tensors here, there;
  for (const Tensor& x : inputs) {
    here.push_back(x.detach().set_requires_grad(true));
    there.push_back(on_cpu_in_double(x).set_requires_grad(true));
  }
  const DType dtype = inputs[0].dtype();
  const double tolerance = roundings * rounding_of(dtype);
  const Tensor y = fn(here);
  ASSERT_TRUE(y.is_cuda());
  EXPECT_EQ(y.dtype(), dtype);
  const Tensor want = [&] {
    set_default_device(cpu);
    const Tensor result = fn(there);
    set_default_device(Device::cuda());
    return result;
  }();
  EXPECT_TRUE(all_close(y, want, tolerance)) << "output in " << name(dtype);
  const Tensor dy = to(uniform(y.shape(), f64), dtype);
  backward(y, dy);
  backward(want, on_cpu_in_double(dy));
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(here[i].grad().defined());
    EXPECT_TRUE(all_close(here[i].grad(), there[i].grad(), tolerance))
        << "gradient of input " << i << " in " << name(dtype);
  }
}

/// A contiguous tensor of these numbers whose memory begins one element after an aligned address.
inline Tensor misaligned(const Tensor& x) {
  const Tensor storage = empty({x.numel() + 1}, x.dtype(), x.device());
  const Tensor view = make_view(storage, x.shape(), x.shape().contiguous_strides(), 1);
  copy_into(view, x);
  return view;
}

}  // namespace camo::test
