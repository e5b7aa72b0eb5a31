// Memory of a GPU: what is live, cached and freed, and what is said when it runs out; devices that are not there.
#include <optional>

#include "models/camoxpert/loss.h"
#include "models/camoxpert/network.h"
#include "nn/gradcheck.h"
#include "nn/optim/adamw.h"
#include "tests/cuda/cuda_test.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {
namespace {

using namespace test;
using CudaMemory = CudaTest;

int64_t live_bytes() { return memory_stats(kGpu).live_bytes; }

#ifdef CAMO_WITH_CUDA
int64_t device_bytes() { return cuda::device_info(kGpu).total_bytes; }

TEST_F(CudaMemory, RunningOutNamesTheNumbersAndTheFlags) {
  const int64_t before = live_bytes(), wanted = 2 * device_bytes();
  const Tensor kept = zeros({1 << 20});
  try {
    empty({wanted}, u8);
    ADD_FAILURE() << "allocated twice the memory of the device";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    const std::string text = error.what();
    for (const std::string& part :
         {"memory: cuda:0 has no " + std::to_string(wanted) + " bytes left", std::string("; live "),
          std::string(", peak "), std::string(", cached "), std::string(", free on the device "),
          std::string("lower --batch-size or --img-size, or use --gradient-checkpointing")}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
    }
  }
  EXPECT_EQ(live_bytes() - before, 4 << 20);
  EXPECT_EQ((kept + 1.0).to_vector<float>()[77], 1);  // the device works on
}

TEST_F(CudaMemory, CachedBlocksAreGivenBackBeforeGivingUp) {
  constexpr int64_t kMiB = 1 << 20;
  const MemoryLimit limit(256 * kMiB);
  { const Tensor large = empty({128 * kMiB}, u8); }
  EXPECT_GE(memory_stats(kGpu).cached_bytes, 128 * kMiB);
  const Tensor larger = empty({192 * kMiB}, u8);  // only fits without the cached block
  EXPECT_LT(memory_stats(kGpu).cached_bytes, 128 * kMiB);
}

TEST_F(CudaMemory, ALimitIsKept) {
  constexpr int64_t kMiB = 1 << 20;
  const int64_t wanted = memory_stats(kGpu).cached_bytes + 128 * kMiB;
  {
    const MemoryLimit limit(64 * kMiB);
    const MemoryStats now = memory_stats(kGpu);
    EXPECT_ERROR(empty({wanted}, u8),
                 ", limit " + std::to_string(now.live_bytes + now.cached_bytes + 64 * kMiB) + "; lower --batch-size");
    EXPECT_EQ(empty({64 * kMiB}, u8).numel(), 64 * kMiB);
  }
  EXPECT_EQ(empty({wanted}, u8).numel(), wanted);
}
#endif

TEST_F(CudaMemory, FreedBlocksAreReused) {
  release_cached_memory(kGpu);
  reset_peak_memory(kGpu);
  const int64_t before = live_bytes();
  const void* first = nullptr;
  {
    const Tensor x = empty({1 << 22});
    first = x.raw_data();
    EXPECT_EQ(live_bytes() - before, 4 << 22);
  }
  EXPECT_EQ(live_bytes(), before);
  const Tensor again = empty({1 << 22});
  EXPECT_EQ(again.raw_data(), first);
  EXPECT_EQ(memory_stats(kGpu).peak_bytes - before, 4 << 22);
}

TEST_F(CudaMemory, DevicesThatDoNotExistAreNamed) {
  const std::string count = std::to_string(cuda_device_count());
  EXPECT_ERROR(parse_device("cuda:99"),
               "device: 'cuda:99' does not exist; this machine has " + count + " CUDA devices");
  EXPECT_ERROR(empty({1}, f32, Device::cuda(99)),
               "memory: cuda:99 can't be used: this machine has " + count + " CUDA devices, numbered from 0");
  EXPECT_ERROR(empty({1}, f32, Device::cuda(-1)), "memory: cuda:-1 can't be used");
}

/// Every operation, forward and backward, gives back what it took.
TEST_F(CudaMemory, NoOperationKeepsMemory) {
  std::vector<GradientCase> cases = all_gradient_cases();
  const auto run = [](const GradientCase& entry) {
    Tensors inputs;
    for (const Tensor& x : entry.inputs()) {
      inputs.push_back(x.defined() ? x.detach() : x);
      if (x.defined() && is_floating(x.dtype())) inputs.back().set_requires_grad(true);
    }
    for (const Tensor& y : entry.fn(inputs)) {
      if (y.requires_grad()) backward(y, ones(y.shape(), y.dtype(), y.device()), {.retain_graph = true});
    }
  };
  for (const GradientCase& entry : cases) run(entry);  // what is made once is made now
  for (const GradientCase& entry : cases) {
    const int64_t before = live_bytes();
    run(entry);
    EXPECT_EQ(live_bytes(), before) << entry.op << ", " << entry.variant;
  }
}

TEST_F(CudaMemory, ATrainingStepGivesEverythingBack) {
  const Tensor image = uniform({2, 64, 64, 3}, f32), mask = to(greater(uniform({2, 64, 64, 1}, f32), 0.0), f32);
  const auto train = [&] {
    seed_everything(0);
    CamoXpert network({.backbone = "edgenext_xx_small", .num_experts = 7, .attention_heads = 4});
    AdamW optimizer(parameter_groups(network, 1.0), AdamWOptions{.lr = 1e-4});
    for (int step = 0; step < 2; ++step) {
      network.zero_grad();
      const LossOutput loss = AdvancedCODLoss()(network(image), mask);
      backward(loss.total);
      optimizer.step(clip_gradients(network.parameters(), 1.0));
    }
  };
  train();
  const int64_t before = live_bytes();
  train();
  EXPECT_EQ(live_bytes(), before);
}

}  // namespace
}  // namespace camo
