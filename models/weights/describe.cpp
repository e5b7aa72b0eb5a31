#include "models/weights/describe.h"

#include <algorithm>
#include <charconv>

namespace camo {
namespace {

/// The extent of an axis of a tensor; 0 when there is none.
int64_t extent(const TensorFile& file, const FileState& state, const std::string& name, int axis) {
  const StateEntry* entry = state.find(name);
  if (entry == nullptr) return 0;
  const Shape& shape = file.tensors()[entry->index].shape;
  return axis < shape.size() ? shape[axis] : 0;
}

template <class T>
T number(const TensorFile& file, std::initializer_list<const char*> keys, T otherwise) {
  for (const char* key : keys) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) continue;
    T value{};
    const std::string& text = found->second;
    if (std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc()) return value;
  }
  return otherwise;
}

}  // namespace

const EdgeNeXtSpec* describe_backbone(const TensorFile& file, const FileState& state) {
  for (const EdgeNeXtSpec& variant : kEdgeNeXtVariants) {
    bool fits = extent(file, state, "backbone.stem_0.weight", 0) == variant.dims[0];
    for (size_t s = 1; s < variant.dims.size(); ++s) {
      const std::string stage = "backbone.stages_" + std::to_string(s);
      fits &= extent(file, state, stage + ".downsample.1.weight", 0) == variant.dims[s];
      fits &= state.find(stage + ".blocks." + std::to_string(variant.depths[s] - 1) + ".norm.weight") != nullptr;
      fits &= state.find(stage + ".blocks." + std::to_string(variant.depths[s]) + ".norm.weight") == nullptr;
    }
    if (fits) return &variant;
  }
  return nullptr;
}

std::optional<CheckpointInfo> describe_camoxpert(const TensorFile& file, const FileState& state) {
  if (state.form != NameForm::camoxpert) return std::nullopt;
  const auto format = file.metadata().find("format");
  if (format != file.metadata().end() && format->second.starts_with("camoxpert-checkpoint")) {
    return read_checkpoint_info(SafeTensors{.tensors = {}, .metadata = file.metadata()}, file.path());
  }
  const EdgeNeXtSpec* backbone = describe_backbone(file, state);
  const int64_t experts = extent(file, state, "moe_layers.0.gate.fusion.3.weight", 0);
  if (backbone == nullptr || experts == 0) return std::nullopt;
  CheckpointInfo info;
  info.spec.backbone = backbone->name;
  info.spec.num_experts = experts;
  const bool eight_fits = std::ranges::all_of(backbone->dims, [](int64_t dim) { return dim % 8 == 0; });
  info.spec.attention_heads = number<int64_t>(file, {"args/attention_heads"}, eight_fits ? 8 : 4);
  const auto deep = file.metadata().find("args/deep_supervision");
  if (deep != file.metadata().end()) info.spec.deep_supervision = deep->second == "true";
  info.img_size = number<int64_t>(file, {"args/img_size"}, info.img_size);
  info.epoch = number<int64_t>(file, {"epoch"}, 0);
  info.step = number<int64_t>(file, {"step"}, 0);
  info.iou = number<double>(file, {"best_iou", "iou"}, 0);
  check_info(info, file.path());
  return info;
}

}  // namespace camo
