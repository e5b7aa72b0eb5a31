// Functions recorded with their gradients, and training steps made of them: the bits of the eager ones.
#ifdef CAMO_WITH_CUDA
#include "nn/cuda/recorded_function.h"
#endif
#include <memory>
#include <set>

#include "core/autocast.h"
#include "core/random.h"
#include "models/camoxpert/loss.h"
#include "models/camoxpert/training_runner.h"
#include "nn/layers.h"
#include "nn/optim/adamw.h"
#include "ops/ops.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/deciding_network.h"

namespace camo {
namespace {

using namespace test;

TEST(TrainingRunner, OnTheCpuIsTheNetwork) {
  CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 3});
  network.to(cpu, f32);
  EXPECT_ERROR(TrainingRunner(network, CudaGraphs::on), "--cuda-graphs on: needs a GPU; got --device cpu");
  TrainingRunner run(network);
  const Tensor x = to(uniform({2, 32, 32, 3}, f32), cpu);
  for (int i = 0; i < 4; ++i) {
    seed_everything(7);
    const CamoXpertOutput got = run(x);
    seed_everything(7);
    EXPECT_TRUE(bitwise_equal(got.logits, network(x).logits));
    EXPECT_TRUE(got.logits.requires_grad());
    EXPECT_FALSE(run.used_graphs());
  }
}

#ifdef CAMO_WITH_CUDA
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

/// Steps of two networks that began alike, one with graphs.
class Twins {
 public:
  explicit Twins(DType precision) : precision_(precision) {
    for (Half* half : {&eager_, &graphs_}) {
      seed_everything(3);
      half->network = deciding_network();
      half->network->train();
      half->optimizer = std::make_unique<AdamW>(parameter_groups(*half->network, 1.0), AdamWOptions{.lr = 1e-3});
    }
    run_ = std::make_unique<TrainingRunner>(*graphs_.network, CudaGraphs::automatic);
  }

  /// Returns whether graphs were used.
  bool step(const std::vector<Tensor>& batches, uint64_t seed) {
    const auto loss = make_loss("advanced_cod");
    bool used = false;
    for (Half* half : {&eager_, &graphs_}) {
      seed_everything(seed);
      half->network->zero_grad();
      half->losses.clear();
      for (const Tensor& x : batches) {
        const LossOutput out = [&] {
          const Autocast scope(precision_);
          return (*loss)(half == &graphs_ ? (*run_)(x) : (*half->network)(x), sigmoid(slice(x, 3, 0, 1)));
        }();
        backward(out.total);
        half->losses.push_back(clone(out.total.detach()));
      }
      used = run_->used_graphs();
      half->optimizer->step(clip_gradients(half->network->parameters(), 1.0));
    }
    return used;
  }
  void freeze_backbones(bool frozen) {
    for (Half* half : {&eager_, &graphs_}) {
      half->network->backbone().set_requires_grad(!frozen);
      half->optimizer = std::make_unique<AdamW>(parameter_groups(*half->network, 1.0), AdamWOptions{.lr = 1e-3});
    }
  }
  void expect_same_bits(std::string_view when) const {
    for (size_t i = 0; i < eager_.losses.size(); ++i)
      EXPECT_TRUE(bitwise_equal(eager_.losses[i], graphs_.losses[i])) << when;
    const StateDict a = eager_.network->state_dict(), b = graphs_.network->state_dict();
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_TRUE(bitwise_equal(a[i].second, b[i].second)) << when << ", " << a[i].first;
  }

 private:
  struct Half {
    std::unique_ptr<CamoXpert> network;
    std::unique_ptr<AdamW> optimizer;
    Tensors losses;
  };
  DType precision_;
  Half eager_, graphs_;
  std::unique_ptr<TrainingRunner> run_;
};

TEST_F(CudaRecording, TrainingStepsHaveTheBitsOfEagerOnes) {
  for (const DType precision : {f32, bf16, f16}) {
    Twins twins(precision);
    for (int i = 0; i < 7; ++i) {
      EXPECT_EQ(twins.step({pictures(3, i)}, static_cast<uint64_t>(i)), i >= 2) << i;
      twins.expect_same_bits(name(precision));
    }
    EXPECT_FALSE(twins.step({pictures(2, 8)}, 8));  // another size
    twins.expect_same_bits("another size");
    EXPECT_TRUE(twins.step({pictures(3, 9)}, 9));
    twins.expect_same_bits("the first size again");
  }
}

TEST_F(CudaRecording, ParametersMayBeFrozenAndTrainedAgain) {
  Twins twins(bf16);
  for (const bool frozen : {true, false, true}) {
    twins.freeze_backbones(frozen);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)), i >= 2) << i;
      twins.expect_same_bits(frozen ? "frozen" : "trained");
    }
  }
}

TEST_F(CudaRecording, GradientsOfSeveralBatchesAddUp) {
  Twins twins(f32);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(twins.step({pictures(2, i), pictures(2, i + 1), pictures(2, i + 2)}, static_cast<uint64_t>(i)), true);
    twins.expect_same_bits("several batches");
  }
}

TEST_F(CudaRecording, MemoryGoesBack) {
  const auto train = [] {
    Twins twins(bf16);
    for (int i = 0; i < 4; ++i) twins.step({pictures(2, i)}, 1);
  };
  train();  // makes tables that stay
  seed_everything(3);
  const auto copies = deciding_network();  // of parameters: dropped when the next network's are made
  const auto live = [&] {
    const Autocast scope(bf16);
    const NoGrad no_grad;
    for (const Tensor& parameter : copies->parameters()) copy_into(parameter.detach(), parameter.detach() * 1.0);
    seed_everything(3);
    (*copies)(pictures(1, 0));  // the same experts each time; drops the 16-bit copies of parameters that are gone
    return memory_stats(kGpu).live_bytes;
  };
  train();
  const int64_t before = live();
  train();
  EXPECT_EQ(live(), before);
}
#endif

}  // namespace
}  // namespace camo
