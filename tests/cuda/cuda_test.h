// What tests that need a GPU share: skipping without one, and comparisons with the CPU in double precision.
#pragma once

#include <algorithm>

#include "tests/cuda/cuda_cases.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/allocator.h"
#endif

namespace camo::test {

/// Skipped without a GPU; tensors are made on cuda:0 unless a test names another device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << why_no_cuda();
    set_default_device(kGpu);
  }
};

#ifdef CAMO_WITH_CUDA
/// The allocator, which has given all that it can back, gets at most `more` bytes from the driver during its life.
class MemoryLimit {
 public:
  explicit MemoryLimit(int64_t more) {
    release_cached_memory(kGpu);
    const MemoryStats now = memory_stats(kGpu);
    cuda::set_memory_limit(kGpu, now.live_bytes + now.cached_bytes + more);
  }
  ~MemoryLimit() { cuda::set_memory_limit(kGpu, INT64_MAX); }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;
};
#endif

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

/// fn on these tensors, which lie on CUDA with any strides, agrees with fn on the CPU in f64, both the result and the
/// gradients, but for `roundings` of the largest element; in f64 but for 1e-13, as sums have another order.
inline void expect_cuda_agrees(const MapFunction& fn, const Tensors& inputs, double roundings) {
  Tensors here, there;
  for (const Tensor& x : inputs) {
    here.push_back(x.detach());
    there.push_back(on_cpu_in_double(x));
  }
  const DType dtype = inputs[0].dtype();
  const Tensor dy = to(uniform(fn(here).shape()), dtype);
  const Tensors got = output_and_gradients(fn, here, dy);
  set_default_device(cpu);
  const Tensors expected = output_and_gradients(fn, there, on_cpu_in_double(dy));
  set_default_device(kGpu);
  const double tolerance = std::max(roundings * rounding_of(dtype), 1e-13);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(got[i].defined() && got[i].is_cuda());
    EXPECT_EQ(got[i].dtype(), dtype);
    EXPECT_TRUE(all_close(got[i], expected[i], tolerance))
        << name(dtype) << (i == 0 ? ": output" : concat_text(": gradient of input ", static_cast<int64_t>(i) - 1));
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
