// Branches of recorded work: what waits for what, whose memory is handed out when, and what is left after an exception.
#ifdef CAMO_WITH_CUDA
#include "core/cuda/side_by_side.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string_view>

#include "core/cuda/graph.h"
#include "core/cuda/runtime.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;
using CudaBranches = CudaTest;
using cuda::MemoryPool;
using cuda::side_by_side;

/// For how many pieces of work the next one to be recorded would wait.
size_t open_ends() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaGraphNode_t* nodes = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 0;
  CAMO_CUDA(cudaStreamGetCaptureInfo(cuda::use(kGpu), &status, nullptr, nullptr, &nodes, &edges, &count));
  return count;
}

TEST_F(CudaBranches, WaitForNothingOfEachOther) {
  const NoGrad no_grad;
  MemoryPool pool(kGpu);
  const MemoryPool::Scope scope(pool);
  const Tensor x = uniform({1000}, f32);
  const auto expect_ends = [](size_t count) {
    if (cuda::is_recording()) {
      EXPECT_EQ(open_ends(), count);
    }
  };
  Tensor y, a, b, c, sum_of_all;
  const auto work = [&] {
    y = x * 2;
    side_by_side(kGpu, {[&] { a = square(y + 1); },
                        [&] {
                          side_by_side(kGpu, {[&] { b = y + 2; }, [&] { c = y * y; }});
                          b = b * c;
                        },
                        [] {}});
    expect_ends(2);
    side_by_side(kGpu, {[&] { a = a * 3; }, [] {}});
    expect_ends(1);
    side_by_side(kGpu, {[] {}, [] {}});
    expect_ends(1);
    side_by_side(kGpu, {[&] { b = b + 1; }, [&] { c = c + 1; }, [&] { a = a + 1; }});
    expect_ends(3);
    sum_of_all = a + b + c;
    expect_ends(1);
  };
  work();
  const cuda::Graph graph(kGpu, work);
  const Tensor recorded = sum_of_all;
  for (int i = 0; i < 20; ++i) {
    copy_into(x, uniform({1000}, f32));
    graph.launch();
    work();
    EXPECT_TRUE(bitwise_equal(recorded, sum_of_all)) << i;
  }
}

using Places = std::set<const void*>;

/// `count` temporaries, each freed once the next is made; notes where they lay.
Tensor long_way(const Tensor& from, int count, double step, Places& places) {
  Tensor x = from;
  for (int i = 0; i < count; ++i) {
    x = x + step;
    places.insert(x.raw_data());
  }
  return x;
}

bool share(const Places& a, const Places& b) {
  return std::any_of(a.begin(), a.end(), [&](const void* place) { return b.contains(place); });
}

TEST_F(CudaBranches, MemoryFreedWithinIsHandedOutToOthersBehindTheEnd) {
  const NoGrad no_grad;
  constexpr int kLong = 200;
  constexpr int64_t kSize = int64_t{1} << 16;
  MemoryPool pool(kGpu);
  const Tensor x = full({kSize}, 1, f32);
  Tensor start, a, b, c, last;
  const cuda::Graph graph(kGpu, [&] {
    const MemoryPool::Scope scope(pool);
    start = x + 0;
    Tensor before = start + 7;
    Places of_before{before.raw_data()}, of_a, of_b, of_c, of_b_again, later;
    side_by_side(kGpu, {[&] {
                          before = {};  // the other branches might still use it
                          a = long_way(start, kLong, 1, of_a);
                        },
                        [&] {
                          const Tensor outer = long_way(start, kLong, 1, of_b);
                          side_by_side(kGpu, {[&] { b = long_way(outer, kLong, 1, of_b); },
                                              [&] { c = long_way(outer, kLong, 2, of_c); }});
                          b = long_way(b, kLong, 1, of_b_again);
                        }});
    for (const Places* places : {&of_a, &of_b, &of_c, &of_b_again}) {
      EXPECT_FALSE(share(*places, of_before));
      EXPECT_LE(places->size(), 8u) << "each may reuse its own";
    }
    EXPECT_FALSE(share(of_a, of_b) || share(of_a, of_c) || share(of_b, of_c) || share(of_a, of_b_again));
    EXPECT_FALSE(share(of_c, of_b_again)) << "a branch of a branch has its own";
    const int64_t live = memory_stats(kGpu).live_bytes;
    Tensors again;
    for (size_t i = 0; i < of_a.size() + of_b.size() + of_c.size() - 3; ++i) again.push_back(empty({kSize}, f32));
    EXPECT_EQ(memory_stats(kGpu).live_bytes, live) << "what was freed is free now";
    again.clear();
    last = long_way(a + b + c, kLong, 1, later);
    EXPECT_LE(later.size(), 8u);
  });
  for (int i = 0; i < 5; ++i) {
    fill(x, i);
    for (const Tensor& y : {a, b, c, last}) fill(y, -1);
    graph.launch();
    const auto expect_all = [](const Tensor& y, int wanted) {
      EXPECT_EQ(y.to_vector<float>(), std::vector<float>(kSize, static_cast<float>(wanted)));
    };
    expect_all(a, i + kLong);
    expect_all(b, i + 3 * kLong);
    expect_all(c, i + 3 * kLong);
    expect_all(last, 3 * i + 8 * kLong);
  }
}

TEST_F(CudaBranches, WithoutARecordingAreOrdinaryWork) {
  const NoGrad no_grad;
  const Tensor x = uniform({1 << 16}, f32);
  Places places;
  Tensor a, b;
  side_by_side(kGpu, {[&] { a = long_way(x, 50, 1, places); }, [&] { b = long_way(x, 50, 1, places); }});
  EXPECT_LE(places.size(), 8u);
  EXPECT_TRUE(bitwise_equal(a, b));
}

TEST_F(CudaBranches, ExceptionsLeaveStreamsAndMemoryUsable) {
  const NoGrad no_grad;
  const Tensor x = full({1 << 18}, 3, f32);
  const auto fails = [] { fail(ErrorCode::general, "on purpose"); };
  const auto breaks_off = [] { CAMO_CUDA(cudaStreamSynchronize(cuda::use(kGpu))); };
  const auto record = [&](FunctionRef<void()> bad) {
    MemoryPool pool(kGpu);
    const MemoryPool::Scope scope(pool);
    Tensor y, a, b;
    const cuda::Graph graph(kGpu, [&] {
      y = x + 1;
      side_by_side(kGpu, {[&] { a = y + 1; },
                          [&] {
                            b = y + 2;
                            side_by_side(kGpu, {[&] { b = b + 3; }, [&] { bad(); }});
                          }});
      y = a + b;
    });
    graph.launch();
    EXPECT_EQ(y.to_vector<float>(), std::vector<float>(1 << 18, 14));
  };
  record([] {});
  for (int i = 0; i < 3; ++i) {
    EXPECT_ERROR(record(fails), "on purpose");
    EXPECT_ERROR(record(breaks_off), "cudaStreamSynchronize");
    EXPECT_FALSE(cuda::is_recording());
    EXPECT_EQ(sum(x + 1).item(), 4.0 * (1 << 18));
    const void* const place = empty({1 << 18}, f32).raw_data();
    EXPECT_EQ(empty({1 << 18}, f32).raw_data(), place) << "memory is reused at once again";
    record([] {});
  }
  cuda::synchronize(kGpu);
}

/// Gradients of a recorded function of leaves: the bits of the eager ones, from at least `branches` branches.
void expect_branches(const std::function<Tensor(const Tensors&)>& fn, const Tensors& inputs, size_t branches,
                     std::string_view what) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(clone(x).set_requires_grad(true));
  Tensor dy;
  const auto run = [&] {
    const Tensor y = fn(leaves);
    if (!dy.defined()) dy = to(uniform(y.shape(), f32), y.dtype());
    backward(y, dy);
  };
  const auto taken = [&] {
    Tensors gradients;
    for (const Tensor& leaf : leaves) {
      gradients.push_back(leaf.grad());
      leaf.set_grad({});
    }
    return gradients;
  };
  run();
  taken();
  MemoryPool pool(kGpu);
  const MemoryPool::Scope scope(pool);
  const cuda::Graph graph(kGpu, [&] {
    run();
    EXPECT_GE(open_ends(), branches) << what;
  });
  const Tensors recorded = taken();
  for (int i = 0; i < 5; ++i) {
    {
      const NoGrad no_grad;
      for (const Tensor& leaf : leaves) copy_into(leaf.detach(), to(uniform(leaf.shape(), f32), leaf.dtype()));
    }
    graph.launch();
    run();
    const Tensors wanted = taken();
    for (size_t k = 0; k < leaves.size(); ++k) {
      EXPECT_TRUE(bitwise_equal(recorded[k], wanted[k])) << what << ", gradient " << k << ", launch " << i;
    }
  }
}

TEST_F(CudaBranches, GradientsHaveTheBitsOfEagerOnes) {
  for (const DType dtype : {f32, bf16}) {
    const auto random = [&](const Shape& shape) { return to(uniform(shape, f32), dtype); };
    const auto apply_linear = [](const Tensors& in) { return linear(in[0], in[1], in[2]); };
    expect_branches(apply_linear, {random({4000, 96}), random({160, 96}), random({160})}, 3, "linear");
    expect_branches(apply_linear, {random({4000, 64}), random({1, 64}), random({1})}, 1, "linear with one output");
    const auto product = [](const Tensors& in) { return matmul(in[0], in[1]); };
    expect_branches(product, {random({8, 64, 96}), random({8, 96, 32})}, 2, "matmul");
    expect_branches(product, {random({8, 64, 96}), random({96, 32})}, 2, "matmul of rows");
    const auto convolution = [](int64_t groups) {
      return [groups](const Tensors& in) {
        return conv2d(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), {.padding = {1, 1}, .groups = groups});
      };
    };
    expect_branches(convolution(1), {random({4, 20, 20, 64}), random({96, 3, 3, 64}), random({96})}, 2, "conv2d");
    expect_branches(convolution(1), {random({4, 20, 20, 64}), random({96, 3, 3, 64})}, 2, "conv2d without bias");
    expect_branches(convolution(1), {random({4, 20, 20, 16}), random({16, 3, 3, 16}), random({16})}, 2, "narrow");
    expect_branches(convolution(64), {random({4, 20, 20, 64}), random({64, 3, 3, 1}), random({64})}, 2, "depthwise");
  }
}

// Sums of gradients that nodes add to in place lie on the way between branches.
TEST_F(CudaBranches, SumsOfGradientsHaveTheBitsOfEagerOnes) {
  for (const DType dtype : {f32, bf16}) {
    const auto random = [&](const Shape& shape) { return to(uniform(shape, f32), dtype); };
    const auto function = [](const Tensors& in) {
      Tensor y = in[0];
      for (int i = 0; i < 6; ++i) y = y + gelu(linear(y, in[1], in[2])) + matmul(y, in[3]);
      return y;
    };
    expect_branches(function, {random({2000, 64}) * 0.1, random({64, 64}) * 0.1, random({64}), random({64, 64}) * 0.1},
                    1, "a chain with shared weights");
  }
}

}  // namespace
}  // namespace camo
#endif
