// Work recorded as CUDA graphs: what a launch computes, whose memory it uses, what may not be recorded, and inference.
#ifdef CAMO_WITH_CUDA
#include "core/cuda/graph.h"

#include "core/cuda/growing_range.h"
#include "core/cuda/runtime.h"
#endif
#include <memory>
#include <set>

#include "core/autocast.h"
#include "core/host_copy.h"
#include "core/random.h"
#include "models/camoxpert/inference_runner.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/deciding_network.h"

namespace camo {
namespace {

using namespace test;

#ifdef CAMO_WITH_CUDA
using CudaGraph = CudaTest;
using cuda::GraphBuilder;
using cuda::MemoryPool;

TEST_F(CudaGraph, LaunchesReadTheInputsOfNow) {
  const NoGrad no_grad;
  MemoryPool pool(kGpu);
  const Tensor x = uniform({3, 100}, f32), weight = uniform({50, 100}, f32);
  Tensor y;
  const auto work = [&] { y = gelu(linear(x, weight, {})) + 1; };
  const MemoryPool::Scope scope(pool);
  work();
  const cuda::Graph graph(kGpu, work);
  for (int i = 0; i < 3; ++i) {
    copy_into(x, uniform({3, 100}, f32));
    fill(y, 0);
    graph.launch();
    EXPECT_TRUE(bitwise_equal(y, gelu(linear(x, weight, {})) + 1));
  }
}

TEST_F(CudaGraph, PoolsShareNothingWithOtherTensors) {
  const NoGrad no_grad;
  MemoryPool pool(kGpu);
  const Tensor x = uniform({1 << 20}, f32);
  Tensor y;
  const auto work = [&] {
    const MemoryPool::Scope scope(pool);
    y = square(square(square(x)));
  };
  work();
  y = {};
  const cuda::Graph graph(kGpu, work);
  const Tensor wanted = clone(square(square(square(x))));
  Tensors others;
  for (int i = 0; i < 64; ++i) others.push_back(full({1 << 20}, 7, f32));
  graph.launch();
  for (const Tensor& other : others) EXPECT_EQ(sum(other).item(), 7.0 * (1 << 20));
  EXPECT_TRUE(bitwise_equal(y, wanted));
}

TEST_F(CudaGraph, WhatLivedAtTheRecordingKeepsItsMemory) {
  const NoGrad no_grad;
  MemoryPool pool(kGpu);
  Tensor table = full({1 << 18}, 3, f32);
  const void* const address = table.raw_data();
  Tensor y;
  {
    const cuda::Graph graph(kGpu, [&] {
      const MemoryPool::Scope scope(pool);
      y = table + 1;
    });
    table = {};  // as a cache does that makes room
    for (int i = 0; i < 64; ++i) EXPECT_NE(full({1 << 18}, 9, f32).raw_data(), address);
    graph.launch();
    EXPECT_EQ(y.to_vector<float>(), std::vector<float>(1 << 18, 4));
  }
  const int64_t live = memory_stats(kGpu).live_bytes;
  const Tensor next = empty({1 << 18}, f32);  // the memory is free again
  EXPECT_EQ(memory_stats(kGpu).live_bytes, live + 4 * (1 << 18));
}

TEST_F(CudaGraph, WhatARecordingHeldIsFreeWhenItEndsThoughOthersGoOn) {
  const auto live = [] { return memory_stats(kGpu).live_bytes; };
  constexpr int64_t kBytes = 1 << 20;
  Tensor first = empty({kBytes}, u8);
  auto early = std::make_unique<cuda::MemoryHold>(kGpu);
  Tensor second = empty({kBytes}, u8);
  auto late = std::make_unique<cuda::MemoryHold>(kGpu);
  const int64_t before = live();
  first = {};
  second = {};
  empty({kBytes}, u8);  // lives within both, and is not held
  EXPECT_EQ(live(), before);
  early.reset();
  EXPECT_EQ(live(), before);  // both lived when the other began
  const cuda::MemoryHold later(kGpu);
  late.reset();
  EXPECT_EQ(live(), before - 2 * kBytes);
}

TEST_F(CudaGraph, WhatAnEndedRecordingHeldIsFreeForTheNext) {
  const NoGrad no_grad;
  MemoryPool pool(kGpu);
  Tensor passing = full({1 << 18}, 3, f32);
  const Tensor x = ones({1 << 10}, f32);
  Tensor y;
  const auto work = [&] {
    const MemoryPool::Scope scope(pool);
    y = square(x);
  };
  { const cuda::Graph graph(kGpu, work); }
  const cuda::Graph next(kGpu, work, passing.raw_data());
  const int64_t live = memory_stats(kGpu).live_bytes;
  passing = {};
  EXPECT_EQ(memory_stats(kGpu).live_bytes, live - 4 * (1 << 18));
}

TEST_F(CudaGraph, ThePoolOfLargeBlocksGrowsInPlaceAndGoesBackWhole) {
  if (cuda::GrowingRange::reserve(kGpu) == nullptr) GTEST_SKIP() << "the driver maps no memory by pages";
  const auto taken = [] { return memory_stats(kGpu).live_bytes + memory_stats(kGpu).cached_bytes; };
  constexpr int64_t kMiB = 1 << 20;
  release_cached_memory(kGpu);
  const int64_t before = taken();
  {
    MemoryPool pool(kGpu);
    const auto in_pool = [&](int64_t size, double value) {
      const MemoryPool::Scope scope(pool);
      return full({size}, value, u8);
    };
    Tensor first = in_pool(3 * kMiB, 1), second = in_pool(5 * kMiB, 2);
    const auto* const begin = static_cast<const char*>(first.raw_data());
    EXPECT_EQ(static_cast<const char*>(second.raw_data()) - begin, 3 * kMiB);
    EXPECT_EQ(taken() - before, 8 * kMiB);
    EXPECT_EQ(first.to_vector<uint8_t>(), std::vector<uint8_t>(3 * kMiB, 1));
    EXPECT_EQ(second.to_vector<uint8_t>(), std::vector<uint8_t>(5 * kMiB, 2));
    first = {};
    second = {};
    EXPECT_EQ(in_pool(8 * kMiB, 3).raw_data(), begin);
    EXPECT_EQ(taken() - before, 8 * kMiB);
    second = in_pool(kMiB * 3 / 2, 4);
    release_cached_memory(kGpu);  // the pool keeps what is free in it
    EXPECT_EQ(in_pool(6 * kMiB, 5).to_vector<uint8_t>(), std::vector<uint8_t>(6 * kMiB, 5));
    EXPECT_EQ(second.to_vector<uint8_t>(), std::vector<uint8_t>(kMiB * 3 / 2, 4));
  }
  release_cached_memory(kGpu);
  EXPECT_EQ(taken(), before);
}

TEST_F(CudaGraph, RunningOutOfMemoryIsSaidAsEver) {
  const int64_t wanted = 2 * cuda::device_info(kGpu).total_bytes;
  EXPECT_ERROR(cuda::Graph(kGpu, [&] { empty({wanted}, u8); }),
               "memory: cuda:0 has no " + std::to_string(wanted) + " bytes left; live ");
  EXPECT_EQ(sum(ones({4}, f32)).item(), 4);  // the stream works as before
}

TEST_F(CudaGraph, WaitsAndCopiesToTheHostAreRefusedByName) {
  const NoGrad no_grad;
  const Tensor x = uniform({4}, f32);
  EXPECT_ERROR(cuda::Graph(kGpu, [&] { x.to_vector<float>(); }), "got a copy from the device to the host");
  EXPECT_ERROR(cuda::Graph(kGpu, [&] { from_vector<float>({1}, {1}, kGpu); }),
               "got a copy from the host to the device");
  EXPECT_ERROR(cuda::Graph(kGpu, [&] { cuda::synchronize(kGpu); }), "got a wait for the device");
  const HostCopy choices(zeros({4}, i64, kGpu));
  EXPECT_ERROR(cuda::Graph(kGpu, [&] { choices.wait(); }), "got a wait for a copy to the host");
  EXPECT_EQ(choices.wait(), std::vector<int64_t>(4, 0));
  EXPECT_EQ((x + 1).numel(), 4);  // the stream works as before
  cuda::synchronize(kGpu);
}

TEST_F(CudaGraph, ConditionsChooseParts) {
  if (!cuda::why_no_graph_conditions().empty()) GTEST_SKIP() << cuda::why_no_graph_conditions();
  const NoGrad no_grad;
  MemoryPool first(kGpu), second(kGpu), last(kGpu);
  const Tensor indices = from_vector<int64_t>({0, 0}, {2}, kGpu), x = ones({1000}, f32), y = zeros({2}, f32);
  const auto half = [&](int i) { copy_into(slice(y, 0, i, i + 1), reshape(sum(x * (i + 1.0)), {1})); };
  half(0);
  half(1);
  Tensor total = sum(y);
  GraphBuilder builder(kGpu);
  const std::vector<GraphBuilder::Condition> conditions{builder.condition(), builder.condition()};
  const GraphBuilder::Step begin = builder.add(last, {}, [&] {
    fill(y, 0);
    builder.set_conditions(conditions, indices);
  });
  const GraphBuilder::Step parts[] = {builder.add_if(conditions[0], first, {&begin, 1}, [&] { half(0); }),
                                      builder.add_if(conditions[1], second, {&begin, 1}, [&] { half(1); })};
  builder.add(last, parts, [&] { total = sum(y); });
  const cuda::Graph graph = builder.finish();
  const std::pair<std::vector<int64_t>, double> cases[] = {{{0, 0}, 1000}, {{1, 1}, 2000}, {{0, 1}, 3000}, {{5, 7}, 0}};
  for (const auto& [chosen, wanted] : cases) {
    copy_into(indices, from_vector(chosen, {2}, cpu));
    graph.launch();
    EXPECT_EQ(total.item(), wanted) << chosen[0] << " " << chosen[1];
  }
}

/// Graphs against the network itself, over pictures that choose different experts.
void expect_same_bits(InferenceRunner& run, const CamoXpert& network, int64_t batch, int rounds, DType precision) {
  const NoGrad no_grad;
  const Autocast scope(precision);
  std::array<std::set<std::vector<int64_t>>, 4> seen;
  for (int i = 0; i < rounds; ++i) {
    const Tensor x = pictures(batch, i);
    const CamoXpertOutput wanted = network(x);
    const Tensor logits = run(x);
    EXPECT_TRUE(run.used_graphs());
    EXPECT_TRUE(bitwise_equal(logits, wanted.logits))
        << "batch " << batch << ", round " << i << ", " << name(precision);
    for (size_t s = 0; s < 4; ++s) {
      EXPECT_EQ(run.routing()[s].chosen, wanted.routing[s].chosen) << "stage " << s;
      seen[s].insert(wanted.routing[s].chosen.front());
    }
  }
  for (size_t s = 0; s < 4; ++s) EXPECT_GT(seen[s].size(), 1u) << "pictures should differ in their experts";
}

TEST_F(CudaGraph, InferenceHasTheBitsOfTheNetwork) {
  const auto network = deciding_network();
  InferenceRunner run(*network, CudaGraphs::on);
  for (const DType precision : {f32, bf16, f16}) {
    for (const int64_t batch : {1, 3}) expect_same_bits(run, *network, batch, 6, precision);
  }
}

// Experts that are first chosen after others were recorded: what they keep must not lie where the others' graphs write.
TEST_F(CudaGraph, ExpertsMayComeLater) {
  seed_everything(3);
  const auto network = deciding_network();
  seed_everything(3);
  const auto twin = deciding_network();  // with 16-bit weights of its own
  const NoGrad no_grad;
  for (const DType precision : {bf16, f32}) {
    const Autocast scope(precision);
    InferenceRunner run(*network, CudaGraphs::on);
    for (int i = 0; i < 12; ++i) {
      const Tensor x = pictures(5, i % 6);
      EXPECT_TRUE(bitwise_equal(run(x), (*twin)(x).logits)) << "round " << i << ", " << name(precision);
    }
  }
}

TEST_F(CudaGraph, InferenceFollowsChangedWeights) {
  const auto network = deciding_network();
  InferenceRunner run(*network, CudaGraphs::on);
  for (int i = 0; i < 3; ++i) {
    for (const Tensor& parameter : network->parameters()) copy_into(parameter, mul(parameter.detach(), 1.01));
    for (const int64_t batch : {1, 2}) expect_same_bits(run, *network, batch, 4, bf16);
  }
}

// With memory for eager passes, which can't go back to the driver, and none for a recording.
TEST_F(CudaGraph, AutomaticGoesOnWithoutWhereMemoryDoesNotLast) {
  const auto network = deciding_network();
  const Tensor x = uniform({8, 256, 256, 3}, f32);
  InferenceRunner eager(*network, CudaGraphs::off), run(*network);
  for (int i = 0; i < 2; ++i) run(x);  // makes the plans
  constexpr int64_t kGiB = 1 << 30;
  Tensor segment = empty({8 * kGiB}, u8, kGpu);
  const void* const begin = segment.raw_data();
  const MemoryLimit limit(64 << 20);
  segment = {};
  const Tensor part = empty({6 * kGiB}, u8, kGpu);
  ASSERT_EQ(part.raw_data(), begin) << "part of the segment";
  testing::internal::CaptureStderr();
  const Tensor logits = run(x);
  EXPECT_FALSE(run.used_graphs());
  EXPECT_NE(
      testing::internal::GetCapturedStderr().find("inference goes on without CUDA graphs: memory: cuda:0 has no "),
      std::string::npos);
  EXPECT_TRUE(bitwise_equal(logits, eager(x)));
  run(x);
  EXPECT_FALSE(run.used_graphs());
}

TEST_F(CudaGraph, AutomaticRecordsTheThirdBatchOfAShape) {
  const auto network = deciding_network();
  InferenceRunner run(*network);
  for (int i = 0; i < 4; ++i) {
    run(pictures(2, i));
    EXPECT_EQ(run.used_graphs(), i >= 2) << i;
  }
}
#endif

}  // namespace
}  // namespace camo
