// Shared by tests that compare a computation on CUDA, in several dtypes, with the CPU in f64.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ops/elementwise.h"
#include "tests/support/test_support.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo::test {

inline constexpr Device kGpu{Device::Kind::cuda, 0};

#ifdef CAMO_WITH_CUDA
/// That no process holds now: tests run side by side.
inline int64_t free_device_bytes() {
  cuda::use(kGpu);
  size_t free = 0, total = 0;
  CAMO_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}
#endif

/// How far a result may be from that in f64 on the same (rounded) inputs, relative to the largest element: twice the
/// rounding of the result, and for f32 and f64 room for sums of thousands of terms.
inline double cuda_tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64: return 1e-12;
    case DType::f16: return 0x1p-10;
    case DType::bf16: return 0x1p-7;
    default: return 1e-5;
  }
}

/// The numbers of x that `dtype` can hold, in f64.
inline Tensor rounded(const Tensor& x, DType dtype) { return to(to(x, dtype), f64); }

/// A contiguous copy on the GPU whose first element lies `shift` elements behind the start of its memory.
inline Tensor on_gpu(const Tensor& x, DType dtype, int64_t shift = 0) {
  const Tensor memory = empty({x.numel() + shift}, dtype, kGpu);
  const Tensor y = make_view(memory, x.shape(), x.shape().contiguous_strides(), shift);
  copy_into(y, to(x, dtype));
  return y;
}

using MapFunction = std::function<Tensor(const Tensors&)>;

/// The output and the gradients of all inputs.
inline Tensors output_and_gradients(const MapFunction& fn, const Tensors& inputs, const Tensor& dy) {
  for (const Tensor& x : inputs) x.set_requires_grad(true);
  const Tensor y = fn(inputs);
  backward(y, dy);
  Tensors results{y.detach()};
  for (const Tensor& x : inputs) results.push_back(x.grad());
  return results;
}

/// fn on the GPU in `dtype` gives what the CPU gives in f64 from the same numbers.
inline void expect_gpu_agrees(const MapFunction& fn, const Tensors& inputs, DType dtype, double tolerance,
                              int64_t shift = 0) {
  Tensors exact, narrow;
  for (const Tensor& x : inputs) {
    exact.push_back(rounded(x, dtype).detach());
    narrow.push_back(on_gpu(x, dtype, shift));
  }
  const Tensor dy = uniform(fn(exact).shape());
  const Tensors expected = output_and_gradients(fn, exact, rounded(dy, dtype));
  const Tensors got = output_and_gradients(fn, narrow, on_gpu(dy, dtype, shift));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(got[i].defined());
    EXPECT_EQ(got[i].dtype(), dtype);
    EXPECT_TRUE(all_close(got[i], expected[i], tolerance))
        << name(dtype) << (shift != 0 ? ", misaligned" : "") << ": "
        << (i == 0 ? std::string("output") : concat_text("gradient of input ", static_cast<int64_t>(i) - 1));
  }
}

}  // namespace camo::test
