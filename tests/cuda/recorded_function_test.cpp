// Functions recorded with their gradients: the bits of the eager ones, and what they need.
#ifdef CAMO_WITH_CUDA
#include "nn/cuda/recorded_function.h"

#include <memory>
#include <thread>

#include "core/autocast.h"
#include "core/random.h"
#include "nn/layers.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"

namespace camo {
namespace {

using namespace test;
using CudaRecording = CudaTest;
using cuda::MemoryPool;

/// Has what a recording must keep apart: random numbers, a counter, running statistics.
class Block : public Module {
 public:
  Block()
      : mix_(child<Linear>("mix", LinearSpec{.in = 16, .out = 16})),
        norm_(child<BatchNorm2d>("norm", 16)),
        drop_(child<Dropout>("drop", 0.3)),
        unused_(child<Linear>("unused", LinearSpec{.in = 4, .out = 4})) {}
  Tensor operator()(const Tensor& x, const Tensor& y) const { return drop_(norm_(mix_(x) * y) + x); }

 private:
  Linear& mix_;
  BatchNorm2d& norm_;
  Dropout& drop_;
  Linear& unused_;
};

struct BlockPair {
  BlockPair() {
    for (Block* block : {&eager, &recorded}) {
      seed_everything(5);
      for (const Tensor& parameter : block->parameters())
        copy_into(parameter.detach(), random_normal(parameter.shape(), 0.3, f32, kGpu));
    }
  }
  Block eager, recorded;
};

/// The same in all that a run leaves behind.
void expect_same_state(const Module& a, const Module& b) {
  const auto compare = [](const std::vector<NamedTensor>& left, const std::vector<NamedTensor>& right) {
    for (size_t i = 0; i < left.size(); ++i) {
      EXPECT_TRUE(bitwise_equal(left[i].tensor, right[i].tensor)) << left[i].name;
      const Tensor &da = left[i].tensor.grad(), &db = right[i].tensor.grad();
      ASSERT_EQ(da.defined(), db.defined()) << left[i].name;
      EXPECT_TRUE(!da.defined() || bitwise_equal(da, db)) << "gradient of " << left[i].name;
    }
  };
  compare(a.named_parameters(), b.named_parameters());
  compare(a.named_buffers(), b.named_buffers());
}

TEST_F(CudaRecording, AFunctionLeavesWhatTheEagerOneLeaves) {
  for (const DType precision : {f32, bf16}) {
    const Autocast scope(precision);
    BlockPair blocks;
    const auto function = [&](const Tensors& in) { return Tensors{blocks.recorded(in[0], in[1]), in[1] * 2}; };
    const Shape shape{2, 3, 5, 16};
    const auto inputs = [&](int i) {
      seed_everything(static_cast<uint64_t>(50 + i));
      return Tensors{random_uniform(shape, -1, 1, f32, kGpu).set_requires_grad(true),
                     random_uniform(shape, -1, 1, f32, kGpu)};
    };
    const auto differentiate = [&](const Tensors& y) { backward(sum(square(to(y[0], f32)))); };
    for (Block* block : {&blocks.eager, &blocks.recorded}) {  // plans and 16-bit copies
      const Tensors in = inputs(0);
      seed_everything(1);
      differentiate({(*block)(in[0], in[1])});
      block->zero_grad();
    }
    const auto memory = std::make_shared<MemoryPool>(kGpu);
    seed_everything(9);
    RecordedFunction recorded("block", blocks.recorded, function, memory);
    expect_same_state(blocks.eager, blocks.recorded);
    for (int i = 0; i < 4; ++i) {
      const Tensors in = inputs(i), same = inputs(i);
      seed_everything(static_cast<uint64_t>(100 + i / 2));  // a new seed, and a later position of the old one
      if (i % 2 == 1) default_generator().set_state({default_generator().state().seed, 40});
      const RandomKey before = default_generator().state();
      const Tensor wanted = blocks.eager(in[0], in[1]);
      const RandomKey after = default_generator().state();
      differentiate({wanted});
      default_generator().set_state(before);
      const Tensors got = recorded(same);
      EXPECT_EQ(default_generator().state().stream, after.stream);
      EXPECT_FALSE(got[1].requires_grad());
      EXPECT_TRUE(bitwise_equal(got[1], same[1] * 2));
      EXPECT_TRUE(bitwise_equal(got[0], wanted)) << "run " << i << " " << name(precision);
      differentiate(got);
      EXPECT_TRUE(bitwise_equal(in[0].grad(), same[0].grad())) << "run " << i << " " << name(precision);
      expect_same_state(blocks.eager, blocks.recorded);
      for (Block* block : {&blocks.eager, &blocks.recorded}) {
        for (const Tensor& parameter : block->parameters()) {  // weights change between runs
          if (parameter.grad().defined()) add_into(parameter.detach(), parameter.grad() * -0.01);
        }
        block->zero_grad();
      }
    }
  }
}

TEST_F(CudaRecording, GradientsOfSeveralRunsAddUp) {
  BlockPair blocks;
  const Tensor x = uniform({2, 3, 5, 16}, f32), y = uniform({2, 3, 5, 16}, f32);
  const auto function = [&](const Tensors& in) { return Tensors{blocks.recorded(in[0], in[1])}; };
  seed_everything(1);
  backward(sum(function({x, y})[0]));
  blocks.recorded.zero_grad();
  const auto memory = std::make_shared<MemoryPool>(kGpu);
  RecordedFunction recorded("block", blocks.recorded, function, memory);
  const auto once = [&](int i) {
    blocks.recorded.zero_grad();
    seed_everything(static_cast<uint64_t>(i));
    backward(sum(square(recorded({x * (i + 1.0), y})[0])));
    Tensors gradients;
    for (const Tensor& parameter : blocks.recorded.parameters()) {
      gradients.push_back(parameter.grad().defined() ? clone(parameter.grad()) : Tensor());
    }
    return gradients;
  };
  const Tensors first = once(0), second = once(1), third = once(2);
  for (int round = 0; round < 2; ++round) {
    blocks.recorded.zero_grad();
    for (int i = 0; i < 3; ++i) {
      seed_everything(static_cast<uint64_t>(i));
      backward(sum(square(recorded({x * (i + 1.0), y})[0])));
    }
    const Tensors parameters = blocks.recorded.parameters();
    for (size_t p = 0; p < parameters.size(); ++p) {
      ASSERT_EQ(parameters[p].grad().defined(), first[p].defined());
      if (!first[p].defined()) continue;
      EXPECT_TRUE(bitwise_equal(parameters[p].grad(), first[p] + second[p] + third[p])) << p;
    }
  }
}

TEST_F(CudaRecording, SaysWhatItNeeds) {
  BlockPair blocks;
  const Tensor x = uniform({2, 3, 5, 16}, f32);
  const auto function = [&](const Tensors& in) { return Tensors{blocks.recorded(in[0], in[0])}; };
  backward(sum(function({x})[0]));
  blocks.recorded.zero_grad();
  const auto memory = std::make_shared<MemoryPool>(kGpu);
  RecordedFunction recorded("block", blocks.recorded, function, memory);
  backward(sum(recorded({x})[0]));
  EXPECT_ERROR(recorded({}), "block: recorded for 1 inputs; got 0");
  EXPECT_ERROR(recorded({uniform({2, 3, 4, 16}, f32)}), "block: recorded for f32 [2, 3, 5, 16]; got f32 [2, 3, 4, 16]");
  const Tensor early = sum(recorded({x})[0]), late = sum(recorded({x})[0]);
  EXPECT_ERROR(backward(early), "must come once, before its next forward; got that of run 2 after 3 runs");
  backward(late);
  const auto with_dropout = [&](const Tensors& in) {
    const Tensor q = reshape(in[0], {2, 15, 2, 8});
    return Tensors{scaled_dot_product_attention(q, q, q, {.dropout = 0.5})};
  };
  RecordedFunction refused("attention", blocks.recorded, with_dropout, memory);
  EXPECT_ERROR(refused({x}), "got attention with dropout");
  EXPECT_EQ((x + 1).numel(), x.numel());  // the stream works as before
}

TEST_F(CudaRecording, SaysWhatACallMayNotChange) {
  BlockPair blocks;
  const Tensor x = uniform({2, 3, 5, 16}, f32);
  const auto function = [&](const Tensors& in) { return Tensors{blocks.recorded(in[0], in[0])}; };
  backward(sum(function({x})[0]));
  blocks.recorded.zero_grad();
  RecordedFunction recorded("block", blocks.recorded, function, std::make_shared<MemoryPool>(kGpu));
  EXPECT_ERROR(recorded({to(x, cpu)}), "block: inputs must lie on cuda:0; got one on cpu");
  EXPECT_FALSE(recorded.is_whole());
  backward(sum(recorded({x})[0]));
  EXPECT_TRUE(recorded.is_whole());
  EXPECT_ERROR(recorded({clone(x).set_requires_grad(true)}),
               "block: recorded without the gradient of input 0; got one that wants it; detach() it");
  std::thread([&] {
    EXPECT_ERROR(recorded({x}), "block: must be called by the thread that recorded it; got another one");
  }).join();
  backward(sum(recorded({x})[0]));
}

/// Two layers side by side, and both results.
class Fork : public Module {
 public:
  Fork()
      : left_(child<Linear>("left", LinearSpec{.in = 16, .out = 4})),
        right_(child<Linear>("right", LinearSpec{.in = 16, .out = 3})) {
    to(kGpu, f32);
  }
  Tensors operator()(const Tensor& x) const { return {left_(x), right_(x)}; }
  const Tensor& left_gradient() const { return left_.parameters().front().grad(); }
  const Tensor& right_gradient() const { return right_.parameters().front().grad(); }

 private:
  Linear &left_, &right_;
};

TEST_F(CudaRecording, ResultsThatNoGradientReachesHaveNone) {
  Fork fork;
  const Tensor x = uniform({6, 16}, f32);
  const auto function = [&](const Tensors& in) { return fork(in[0]); };
  backward(sum(fork(x)[0]) + sum(fork(x)[1]));
  const Tensor wanted = clone(fork.left_gradient());
  {
    fork.zero_grad();
    RecordedFunction recorded("fork", fork, function, std::make_shared<MemoryPool>(kGpu));
    for (int i = 0; i < 3; ++i) {
      fork.zero_grad();
      backward(sum(recorded({x})[0]));
      EXPECT_TRUE(bitwise_equal(fork.left_gradient(), wanted));
      EXPECT_FALSE(fork.right_gradient().defined());
    }
    EXPECT_ERROR(backward(sum(recorded({x})[1])),
                 "fork: recorded with no gradient of a result, f32 [6, 3]; got one; record another function");
    fork.zero_grad();
    backward(sum(recorded({x})[0]));
    EXPECT_TRUE(bitwise_equal(fork.left_gradient(), wanted));
  }
  fork.zero_grad();
  RecordedFunction recorded("fork", fork, function, std::make_shared<MemoryPool>(kGpu));
  const Tensors both = recorded({x});
  backward(sum(both[0]) + sum(both[1]));
  fork.zero_grad();
  backward(sum(recorded({x})[0]));
  EXPECT_TRUE(bitwise_equal(fork.left_gradient(), wanted));
  EXPECT_EQ(fork.right_gradient().to_vector<float>(), std::vector<float>(48, 0));
}

TEST_F(CudaRecording, WhatSavedAnOverwrittenResultIsToldSo) {
  Fork fork;
  fork.freeze();
  const Tensor x = uniform({6, 16}, f32), weight = uniform({5, 4}, f32).set_requires_grad(true);
  RecordedFunction recorded(
      "fork", fork, [&](const Tensors& in) { return fork(in[0]); }, std::make_shared<MemoryPool>(kGpu));
  fork(x);
  const Tensor first = sum(linear(recorded({x})[0], weight, {}));
  const Tensor second = sum(linear(recorded({x * 2})[0], weight, {}));
  EXPECT_ERROR(backward(first), "was changed in place after the forward");
  backward(second);
  EXPECT_TRUE(weight.grad().defined());
}

TEST_F(CudaRecording, GradientsAreKeptWhereverTheyWentTo) {
  Fork fork;
  const Tensor x = uniform({6, 16}, f32);
  backward(sum(fork(x)[0]) + sum(fork(x)[1]));
  fork.zero_grad();
  RecordedFunction recorded(
      "fork", fork, [&](const Tensors& in) { return fork(in[0]); }, std::make_shared<MemoryPool>(kGpu));
  const auto run = [&](double scale) {
    const Tensors y = recorded({x * scale});
    backward(sum(y[0]) + sum(y[1]));
  };
  const auto weights = [&] { return std::pair(fork.parameters()[0], fork.parameters()[2]); };
  run(1);
  const auto [left, right] = weights();
  const Tensor l = clone(left.grad()), r = clone(right.grad());
  run(1);  // both are sums now
  EXPECT_TRUE(bitwise_equal(left.grad(), l + l));
  left.set_grad({});
  run(1);  // the left one lies in the recording again, the right one is a sum
  run(2);
  EXPECT_TRUE(bitwise_equal(left.grad(), l + l * 2));
  EXPECT_TRUE(bitwise_equal(right.grad(), r + r + r + r * 2));
  fork.zero_grad();
  run(1);
  left.set_grad(left.grad().detach());  // another handle on the memory of the recording
  run(2);
  EXPECT_TRUE(bitwise_equal(left.grad(), l + l * 2));
}

}  // namespace
}  // namespace camo
#endif
