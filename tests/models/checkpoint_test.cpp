// Our checkpoints: what is written comes back, and what is damaged or not ours is refused.
#include "models/camoxpert/checkpoint.h"

#include <cmath>
#include <fstream>

#include "core/checksums.h"
#include "core/pth/pth.h"
#include "models/weights/convert.h"
#include "models/weights/state.h"
#include "nn/optim/ema.h"
#include "ops/ops.h"
#include "tests/models/golden_support.h"
#include "tests/support/test_support.h"

namespace camo::test {
namespace {

const CamoXpertSpec kSpec{
    .backbone = "edgenext_xx_small", .num_experts = 2, .attention_heads = 4, .dropout = 0, .deep_supervision = false};

void expect_same(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_TRUE(bitwise_equal(to(a[i].second, cpu), to(b[i].second, cpu))) << a[i].first;
  }
}

class Checkpoint : public ::testing::Test {
 protected:
  Checkpoint() : device_((set_default_device(cpu), cpu)), network_(kSpec) { fill_by_key(network_, "checkpoint/"); }

  std::filesystem::path path() const { return folder_.path() / "net.safetensors"; }
  /// Saves, with one entry of the metadata changed or, with an empty value, taken out.
  void save_with(const std::string& key, const std::string& value) const {
    save_checkpoint(path(), network_, info_);
    SafeTensors file = read_safetensors(path());
    if (value.empty()) file.metadata.erase(key);
    else file.metadata[key] = value;
    add_checksums(file);
    write_safetensors(path(), file);
  }

  TemporaryFolder folder_;
  Device device_;  // which reads and writes files
  CamoXpert network_;
  // 0.1 + 0.2 has no short decimal form.
  CheckpointInfo info_{.spec = kSpec, .img_size = 96, .epoch = 12, .step = int64_t{1} << 40, .iou = 0.1 + 0.2};
};

TEST_F(Checkpoint, HoldsAllThatTrainingNeeds) {
  AdamW optimizer(parameter_groups(network_, 0.1), {.lr = 1e-3, .weight_decay = 0});
  for (const Tensor& parameter : network_.parameters()) parameter.set_grad(full(parameter.shape(), 0.5, f32));
  Ema ema(network_, 0.5);
  optimizer.step();
  ema.update(network_);
  save_checkpoint(path(), network_, info_, {.ema = &ema, .optimizer = &optimizer, .run_state = "{\"loss\": [1, 2]}\n"});

  const CheckpointContents read = read_checkpoint(path());
  EXPECT_EQ(read.info.spec.backbone, kSpec.backbone);
  EXPECT_EQ(read.info.spec.num_experts, 2);
  EXPECT_EQ(read.info.spec.attention_heads, 4);
  EXPECT_FALSE(read.info.spec.deep_supervision);
  EXPECT_EQ(read.info.img_size, 96);
  EXPECT_EQ(read.info.epoch, 12);
  EXPECT_EQ(read.info.step, int64_t{1} << 40);
  EXPECT_EQ(read.info.iou, 0.1 + 0.2);
  EXPECT_EQ(read.run_state, "{\"loss\": [1, 2]}\n");
  expect_same(read.weights, network_.state_dict());
  expect_same(read.averages, ema.state_dict());
  expect_same(read.optimizer, optimizer.state_dict());
}

TEST_F(Checkpoint, LoadsTheAveragesWhereThereAreAny) {
  save_checkpoint(path(), network_, info_);
  const LoadedCheckpoint plain = load_checkpoint(path());
  EXPECT_FALSE(plain.averaged);
  EXPECT_FALSE(plain.network->training());
  EXPECT_FALSE(plain.network->spec().deep_supervision);
  expect_same(plain.network->state_dict(), network_.state_dict());

  const Ema ema(network_, 0.9);
  const StateDict averages = network_.state_dict();
  for (const Tensor& parameter : network_.parameters()) fill(parameter, 7);
  save_checkpoint(path(), network_, info_, {.ema = &ema, .optimizer = nullptr, .run_state = {}});
  const LoadedCheckpoint averaged = load_checkpoint(path(), "edgenext_xx_small");
  EXPECT_TRUE(averaged.averaged);
  expect_same(averaged.network->state_dict(), averages);
  EXPECT_EQ(averaged.info.iou, 0.1 + 0.2);
  EXPECT_ERROR(load_checkpoint(path(), "edgenext_base"),
               "the checkpoint holds backbone edgenext_xx_small; got --backbone edgenext_base");
}

TEST_F(Checkpoint, ADamagedTensorIsFound) {
  save_checkpoint(path(), network_, info_);
  {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1000, std::ios::end);
    file.put('\x55');
  }
  EXPECT_ERROR(read_checkpoint(path()), "checksum");
  EXPECT_ERROR(load_checkpoint(path()), "checksum");
  CamoXpert target(kSpec);
  EXPECT_ERROR(load_weights(target, path()), "checksum");
  EXPECT_ERROR(convert_weights(path(), folder_.path() / "out.pth"), "checksum");
}

TEST_F(Checkpoint, MetadataIsChecked) {
  const struct {
    const char *key, *value, *message;
  } cases[] = {
      {"format", "", "is not a checkpoint of camoxpert; its metadata 'format' must be 'camoxpert-checkpoint-1', got "},
      {"backbone", "", "the checkpoint names no backbone"},
      {"step", "", "the checkpoint has no metadata 'step'"},
      {"epoch", "3x", "metadata 'epoch' must be a number; got '3x'"},
      {"iou", "high", "metadata 'iou' must be a number; got 'high'"},
      {"img_size", "0", "the side of the pictures it was trained on must be within 32 and 32768; got 0"},
      {"img_size", "4294967392", "within 32 and 32768; got 4294967392"},  // 96 as 32 bits
      {"epoch", "-1", "the epochs and steps it was trained for must not be negative; got -1 and 1099511627776"},
  };
  for (const auto& [key, value, message] : cases) {
    save_with(key, value);
    EXPECT_ERROR(read_checkpoint(path()), message);
    if (std::string(key) != "format") EXPECT_ERROR(load_checkpoint(path()), message);
  }
  save_with("num_experts", "3");
  EXPECT_ERROR(load_checkpoint(path()), "does not hold the network it names");
}

TEST_F(Checkpoint, OtherFilesAreRefused) {
  StateDict backbone;
  for (const auto& [name, tensor] : network_.state_dict())
    if (name.starts_with("backbone.")) backbone.emplace_back(name.substr(9), to(tensor, cpu));
  write_safetensors(path(), {.tensors = backbone, .metadata = {}});
  EXPECT_ERROR(load_checkpoint(path()), "got timm-features names; a backbone alone is for `train --pretrained`");
}

// As the reference's training script saves it: its numbers are texts beside the tensors.
TEST_F(Checkpoint, NumbersOfTheReferencesFilesAreChecked) {
  PthDict dict;
  for (const auto& [name, tensor] : network_.state_dict()) dict.emplace_back(name, PthValue{to(tensor, cpu)});
  const auto file = folder_.path() / "net.pth";
  const auto save = [&](int64_t img_size) {
    write_pth(file, {{"epoch", {int64_t{3}}},
                     {"model_state_dict", {dict}},
                     {"args", {PthDict{{"img_size", {img_size}}, {"attention_heads", {int64_t{4}}}}}}});
  };
  save(96);
  EXPECT_EQ(load_checkpoint(file).info.img_size, 96);
  save(-5);
  EXPECT_ERROR(load_checkpoint(file), "the side of the pictures it was trained on must be within 32 and 32768; got -5");
}

}  // namespace
}  // namespace camo::test
