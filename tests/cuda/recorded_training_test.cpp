// Training steps as CUDA graphs: the bits of the eager ones.
#include <functional>
#include <memory>

#include "core/autocast.h"
#include "core/autograd.h"
#include "core/random.h"
#include "models/camoxpert/loss.h"
#include "models/camoxpert/training_runner.h"
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
using CudaTraining = CudaTest;

/// Steps of two networks that began alike, one with graphs.
class Twins {
 public:
  explicit Twins(DType precision, const char* loss = "advanced_cod") : precision_(precision), loss_(make_loss(loss)) {
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
    bool used = false;
    for (Half* half : {&eager_, &graphs_}) {
      seed_everything(seed);
      half->network->zero_grad();
      half->losses.clear();
      for (const Tensor& x : batches) {
        const LossOutput out = loss_of(*half, x);
        backward(out.total);
        half->losses.push_back(clone(out.total.detach()));
      }
      used = run_->used_graphs();
      half->optimizer->step(clip_gradients(half->network->parameters(), 1.0));
    }
    return used;
  }
  /// A step whose backward ends with an error in the first expert that it reaches.
  void break_off(const Tensor& x) {
    for (Half* half : {&eager_, &graphs_}) {
      seed_everything(5);
      half->network->zero_grad();
      std::vector<uint64_t> hooks;
      for (const NamedTensor& named : half->network->named_parameters()) {
        if (named.name.find(".experts.") == std::string::npos) continue;
        hooks.push_back(add_gradient_hook(named.tensor, [](const Tensor&) { fail(ErrorCode::general, "broken off"); }));
      }
      const LossOutput out = loss_of(*half, x);
      EXPECT_ERROR(backward(out.total), "broken off");
      for (const uint64_t hook : hooks) remove_gradient_hook(hook);
    }
  }
  /// Forward passes that nobody differentiates.
  void run_in_vain(const Tensor& x) {
    const Autocast scope(precision_);
    seed_everything(77);
    const CamoXpertOutput wanted = (*eager_.network)(x);
    seed_everything(77);
    EXPECT_TRUE(bitwise_equal((*run_)(x).logits, wanted.logits));
  }
  void change(const std::function<void(CamoXpert&)>& fn) {
    for (Half* half : {&eager_, &graphs_}) fn(*half->network);
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
  LossOutput loss_of(const Half& half, const Tensor& x) const {
    const Autocast scope(precision_);
    return (*loss_)(&half == &graphs_ ? (*run_)(x) : (*half.network)(x), sigmoid(slice(x, 3, 0, 1)));
  }

  DType precision_;
  std::unique_ptr<Loss> loss_;
  Half eager_, graphs_;
  std::unique_ptr<TrainingRunner> run_;
};

TEST_F(CudaTraining, TrainingStepsHaveTheBitsOfEagerOnes) {
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

TEST_F(CudaTraining, ParametersMayBeFrozenAndTrainedAgain) {
  Twins twins(bf16);
  for (const bool frozen : {true, false, true}) {
    twins.freeze_backbones(frozen);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)), i >= 2) << i;
      twins.expect_same_bits(frozen ? "frozen" : "trained");
    }
  }
}

TEST_F(CudaTraining, GradientsOfSeveralBatchesAddUp) {
  Twins twins(f32);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(twins.step({pictures(2, i), pictures(2, i + 1), pictures(2, i + 2)}, static_cast<uint64_t>(i)), true);
    twins.expect_same_bits("several batches");
  }
}

TEST_F(CudaTraining, HeadsThatTheLossLeavesOutStayAsTheyAre) {
  Twins twins(bf16, "dice");  // AdamW would decay parameters with a gradient of zeros
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)), i >= 2) << i;
    twins.expect_same_bits("dice");
  }
}

TEST_F(CudaTraining, LayersMayChangeTheirModes) {
  Twins twins(bf16);
  const auto steps = [&](const char* when) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)), i >= 2) << when << " " << i;
      twins.expect_same_bits(when);
    }
  };
  steps("as made");
  twins.change([](CamoXpert& network) {
    network.visit([](const std::string& name, Module& module) {
      if (name.starts_with("decoder_blocks")) module.eval();
    });
  });
  steps("batch norms of the decoder at rest");
  twins.change([](CamoXpert& network) {
    network.train();
    network.set_dropout(0.4);
  });
  steps("another dropout");
}

TEST_F(CudaTraining, ARecordingThatCameToNoEndIsMadeAnew) {
  Twins twins(bf16);
  for (int i = 0; i < 2; ++i) twins.step({pictures(2, i)}, 1);
  for (int i = 0; i < 2; ++i) twins.run_in_vain(pictures(2, i));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)));
    twins.expect_same_bits("after a forward without backward");
  }
  twins.run_in_vain(pictures(2, 5));
  EXPECT_TRUE(twins.step({pictures(2, 6)}, 6));
  twins.expect_same_bits("the same, of a whole recording");
}

TEST_F(CudaTraining, AStepThatEndsAmongTheExpertsIsRecordedAnew) {
  Twins twins(bf16);  // the decoder's backward is recorded by then, that of the encoding is not
  for (int i = 0; i < 2; ++i) twins.step({pictures(2, i)}, 1);
  twins.break_off(pictures(2, 3));
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(twins.step({pictures(2, i)}, static_cast<uint64_t>(i)));
    twins.expect_same_bits("after a backward that was broken off");
  }
  twins.break_off(pictures(2, 4));
  EXPECT_TRUE(twins.step({pictures(2, 5)}, 5));
  twins.expect_same_bits("the same, of a whole recording");
}

TEST_F(CudaTraining, OtherPicturesAndFormsOfThemAreEager) {
  const auto network = deciding_network();
  network->train();
  TrainingRunner run(*network, CudaGraphs::on);
  const auto step = [&](const Tensor& x) {
    network->zero_grad();
    const Tensor logits = [&] {
      const Autocast scope(bf16);
      return run(x).logits;
    }();
    backward(sum(to(logits, f32)));
    return run.used_graphs();
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(pictures(2, i)), i == 2);
  const Tensor wanted = pictures(2, 3).set_requires_grad(true);
  EXPECT_FALSE(step(wanted));
  EXPECT_TRUE(wanted.grad().defined());
  EXPECT_TRUE(step(pictures(2, 4)));
  EXPECT_FALSE(step(to(pictures(2, 5), bf16)));
  EXPECT_TRUE(step(pictures(2, 6)));
  run.turn_graphs_off();
  EXPECT_FALSE(step(pictures(2, 7)));
}

TEST_F(CudaTraining, MemoryGoesBack) {
  const auto train = [] {
    Twins twins(bf16);
    for (int i = 0; i < 4; ++i) twins.step({pictures(2, i)}, 1);
  };
  train();  // makes tables that stay
  seed_everything(3);
  const auto copies = deciding_network();  // of parameters: dropped when the next network's are made
  const Tensor picture = pictures(1, 0);   // the same experts each time
  const auto live = [&] {
    const Autocast scope(bf16);
    const NoGrad no_grad;
    for (const Tensor& parameter : copies->parameters()) copy_into(parameter.detach(), parameter.detach() * 1.0);
    (*copies)(picture);  // drops the 16-bit copies of parameters that are gone
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
