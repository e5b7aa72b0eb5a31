// The same bits from the same call, whatever else runs.
#include <atomic>
#include <thread>

#include "core/parallel.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {
namespace {

using namespace test;

/// Keeps the device's memory busy beside the compute stream while it lives.
class Load {
 public:
  Load() {
#ifdef CAMO_WITH_CUDA
    const Device device = default_device();
    if (!device.is_cuda()) return;
    thread_ = std::thread([this, device] {
      const Tensor memory = empty({int64_t{1} << 24}, f32, device);
      auto* data = static_cast<char*>(memory.raw_data());
      cudaStream_t stream = cuda::copy_stream(device);
      while (!stop_) {
        for (int i = 0; i < 8; ++i) {
          CAMO_CUDA(cudaMemcpyAsync(data, data + (1 << 25), 1 << 25, cudaMemcpyDeviceToDevice, stream));
        }
        CAMO_CUDA(cudaStreamSynchronize(stream));
      }
    });
#endif
  }
  ~Load() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(FlashDeterminism, FiftyRuns) {
  const bool gpu = default_device().is_cuda();
  const Load load;
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, tf32] : {std::pair{10, false},
                                      {20, false},
                                      {36, false},
                                      {64, false},
                                      {73, false},
                                      {128, false},
                                      {10, true},
                                      {36, true},
                                      {64, true}}) {
      if (tf32 && (dtype != f32 || !gpu)) continue;
      const Tf32Scope scope(tf32);
      const AttentionInputs in(2, gpu ? 700 : 130, gpu ? 700 : 130, gpu ? 4 : 2, width, dtype);
      const AttentionOptions options{.dropout = width == 20 ? 0.1 : 0.0, .dropout_key = {2, 3}};
      const AttentionOutputs first = flash(in, options);
      for (int run = 1; run < 50; ++run) {
        const AttentionOutputs again = flash(in, options);
        for (size_t i = 0; i < 5; ++i) {
          ASSERT_TRUE(bitwise_equal(again.all()[i], first.all()[i]))
              << in.text() << ": run " << run << ", result " << i;
        }
      }
    }
  }
}

/// Kernels that start early, and memory that calls take in turn: nothing of the call before is seen.
TEST(FlashDeterminism, AlternatingInputs) {
  const bool gpu = default_device().is_cuda();
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [width, tf32] : {std::pair{10, false}, {36, false}, {64, false}, {10, true}, {64, true}}) {
      if (tf32 && (dtype != f32 || !gpu)) continue;
      const Tf32Scope scope(tf32);
      const AttentionInputs inputs[] = {{1, 64, 64, 1, width, dtype}, {1, 64, 64, 1, width, dtype}};
      const AttentionOutputs expected[] = {flash(inputs[0]), flash(inputs[1])};
      for (int run = 0; run < (gpu ? 100 : 4); ++run) {
        const AttentionOutputs got[] = {flash(inputs[0]), flash(inputs[1])};
        for (size_t i = 0; i < 10; ++i) {
          ASSERT_TRUE(bitwise_equal(got[i / 5].all()[i % 5], expected[i / 5].all()[i % 5]))
              << inputs[0].text() << ": run " << run << ", result " << i % 5 << " of input " << i / 5;
        }
      }
    }
  }
}

TEST(FlashDeterminism, ThreadsAgree) {
  if (default_device().is_cuda()) GTEST_SKIP() << "about threads of the CPU";
  const AttentionInputs in(1, 150, 170, 3, 10, f32);
  const int before = num_threads();
  set_num_threads(1);
  const AttentionOutputs one = flash(in);
  set_num_threads(3);
  const AttentionOutputs three = flash(in);
  set_num_threads(before);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(bitwise_equal(one.all()[i], three.all()[i])) << "result " << i;
}

/// A head gives the same bits alone and among others; its gradients, which may be summed in other parts, nearly so.
TEST(FlashDeterminism, HeadsDoNotDependOnTheBatch) {
  for (const DType dtype : flash_dtypes()) {
    for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{145, 20}, {576, 36}, {400, 64}, {144, 73}}) {
      const AttentionInputs in = AttentionInputs(3, tokens, tokens, 4, width, dtype).as(Layout::fused);
      const AttentionOutputs all = flash(in);
      const double bound = attention_bounds(dtype).gradient;
      for (const auto& [b, h] : {std::pair<int64_t, int64_t>{0, 0}, {2, 3}, {1, 2}}) {
        const auto head = [&](const Tensor& x) { return slice(slice(x, 0, b, b + 1), 2, h, h + 1); };
        AttentionInputs one;
        one.q = head(in.q);
        one.k = head(in.k);
        one.v = head(in.v);
        one.dy = head(in.dy);
        const AttentionOutputs got = flash(one);
        EXPECT_TRUE(bitwise_equal(got.y, clone(head(all.y)))) << in.text();
        EXPECT_TRUE(all_close(got.dq, clone(head(all.dq)), bound)) << in.text();
        EXPECT_TRUE(all_close(got.dk, clone(head(all.dk)), bound)) << in.text();
        EXPECT_TRUE(all_close(got.dv, clone(head(all.dv)), bound)) << in.text();
      }
    }
  }
}

}  // namespace
}  // namespace camo
