#include "models/camoxpert/checkpoint.h"

#include <charconv>

#include "core/checksums.h"
#include "models/weights/describe.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

constexpr const char* kFormat = "camoxpert-checkpoint-1";
constexpr std::string_view kEmaPrefix = "ema/", kOptimizerPrefix = "optimizer/";
constexpr const char* kRunState = "run_state";
constexpr int64_t kMaxTrainedSide = 32768;  // the loader's largest

void append(SafeTensors& file, std::string_view prefix, const StateDict& state) {
  for (const auto& [name, tensor] : state) {
    file.tensors.emplace_back(std::string(prefix) + name, contiguous(to(tensor, cpu)));
  }
}

/// One metadata value as a number.
template <class T>
T number(const SafeTensors& file, const std::filesystem::path& path, const std::string& key) {
  const auto found = file.metadata.find(key);
  CAMO_CHECK_CODE(checkpoint, found != file.metadata.end(), path.string(), ": the checkpoint has no metadata '", key,
                  "'");
  const std::string& text = found->second;
  T value{};
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  CAMO_CHECK_CODE(checkpoint, parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), path.string(),
                  ": metadata '", key, "' must be a number; got '", text, "'");
  return value;
}

}  // namespace

void save_checkpoint(const std::filesystem::path& path, const CamoXpert& network, const CheckpointInfo& info,
                     const TrainingParts& parts) {
  SafeTensors file;
  append(file, "", network.state_dict());
  if (parts.ema != nullptr) append(file, kEmaPrefix, parts.ema->state_dict());
  if (parts.optimizer != nullptr) append(file, kOptimizerPrefix, parts.optimizer->state_dict());
  file.metadata = {
      {"format", kFormat},
      {"backbone", info.spec.backbone},
      {"num_experts", std::to_string(info.spec.num_experts)},
      {"attention_heads", std::to_string(info.spec.attention_heads)},
      {"deep_supervision", std::to_string(info.spec.deep_supervision)},
      {"img_size", std::to_string(info.img_size)},
      {"epoch", std::to_string(info.epoch)},
      {"step", std::to_string(info.step)},
      {"iou", concat_text(info.iou)},
  };
  if (!parts.run_state.empty()) file.metadata[kRunState] = parts.run_state;
  add_checksums(file);
  write_safetensors(path, file);
}

CheckpointInfo read_checkpoint_info(const SafeTensors& file, const std::filesystem::path& path) {
  const auto format = file.metadata.find("format");
  CAMO_CHECK_CODE(checkpoint, format != file.metadata.end() && format->second == kFormat, path.string(),
                  ": is not a checkpoint of camoxpert; its metadata 'format' must be '", kFormat, "', got '",
                  format == file.metadata.end() ? std::string("nothing") : format->second, "'");
  const auto backbone = file.metadata.find("backbone");
  CAMO_CHECK_CODE(checkpoint, backbone != file.metadata.end(), path.string(), ": the checkpoint names no backbone");
  CheckpointInfo info;
  info.spec.backbone = backbone->second;
  info.spec.num_experts = number<int64_t>(file, path, "num_experts");
  info.spec.attention_heads = number<int64_t>(file, path, "attention_heads");
  info.spec.deep_supervision = number<int>(file, path, "deep_supervision") != 0;
  info.img_size = number<int64_t>(file, path, "img_size");
  info.epoch = number<int64_t>(file, path, "epoch");
  info.step = number<int64_t>(file, path, "step");
  info.iou = number<double>(file, path, "iou");
  check_info(info, path);
  return info;
}

void check_info(const CheckpointInfo& info, const std::filesystem::path& path) {
  CAMO_CHECK_CODE(checkpoint, info.img_size >= 32 && info.img_size <= kMaxTrainedSide, path.string(),
                  ": the side of the pictures it was trained on must be within 32 and ", kMaxTrainedSide, "; got ",
                  info.img_size);
  CAMO_CHECK_CODE(checkpoint, info.epoch >= 0 && info.step >= 0, path.string(),
                  ": the epochs and steps it was trained for must not be negative; got ", info.epoch, " and ",
                  info.step);
}

CheckpointContents read_checkpoint(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  CheckpointContents contents;
  contents.info = read_checkpoint_info(file, path);
  verify_checksums(file, path);
  for (const auto& [name, tensor] : file.tensors) {
    if (name.starts_with(kEmaPrefix)) contents.averages.emplace_back(name.substr(kEmaPrefix.size()), tensor);
    else if (name.starts_with(kOptimizerPrefix))
      contents.optimizer.emplace_back(name.substr(kOptimizerPrefix.size()), tensor);
    else contents.weights.emplace_back(name, tensor);
  }
  if (const auto state = file.metadata.find(kRunState); state != file.metadata.end())
    contents.run_state = state->second;
  return contents;
}

}  // namespace camo
