#include "models/weights/convert.h"

#include "core/checksums.h"
#include "core/pth/pth.h"
#include "models/weights/describe.h"
#include "models/weights/state.h"

namespace camo {
namespace {

enum class Format { safetensors, pth };

Format format_of(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  CAMO_CHECK_CODE(usage, extension == ".safetensors" || extension == ".pth" || extension == ".pt", path.string(),
                  ": the name of a weight file must end with .safetensors, .pth or .pt; got '", extension, "'");
  return extension == ".safetensors" ? Format::safetensors : Format::pth;
}

PthDict dict_of(const StateDict& state) {
  PthDict dict;
  for (const auto& [name, tensor] : state) dict.emplace_back(name, PthValue{tensor});
  return dict;
}

/// What the reference's training script saves.
PthDict reference_checkpoint(const CamoXpert& network, const CheckpointInfo& info) {
  const CamoXpertSpec& spec = info.spec;
  return {{"epoch", {info.epoch}},
          {"step", {info.step}},
          {"model_state_dict", {dict_of(network.state_dict())}},
          {"ema_state_dict", {}},
          {"best_iou", {info.iou}},
          {"args",
           {PthDict{{"backbone", {spec.backbone}},
                    {"num_experts", {spec.num_experts}},
                    {"attention_heads", {spec.attention_heads}},
                    {"deep_supervision", {spec.deep_supervision}},
                    {"img_size", {info.img_size}}}}}};
}

}  // namespace

ConvertReport convert_weights(const std::filesystem::path& in, const std::filesystem::path& out,
                              const ConvertOptions& options) {
  const Format format = format_of(out);
  const auto file = open_tensor_file(in);
  verify_checksums(*file);
  const FileState state = find_state(*file, options.group);
  CAMO_CHECK_CODE(checkpoint, state.form || !options.map, in.string(),
                  ": --map needs names of CamoXpert or of an EdgeNeXt", " (timm, or its authors); got '",
                  state.entries.front().own_name, "', ...");
  ConvertReport report;
  report.from = concat_text(state.group.empty() ? "" : concat_text("'", state.group, "', "),
                            state.form ? name(*state.form) : "unknown", " names");
  const auto info = describe_camoxpert(*file, state);
  if (info && options.map.value_or(NameForm::camoxpert) == NameForm::camoxpert) {
    const auto network = build_network(*file, state, *info);
    if (format == Format::safetensors) save_checkpoint(out, *network, *info);
    else write_pth(out, reference_checkpoint(*network, *info));
    report.to = concat_text("a checkpoint of ", info->spec.backbone, " with ", info->spec.num_experts, " experts");
    report.tensors = state.entries.size();
    return report;
  }
  StateDict written;
  for (const StateEntry& entry : state.entries) {
    const auto own = options.map ? from_camoxpert(*options.map, entry.name) : entry.own_name;
    if (own) written.emplace_back(*own, file->read(entry.index));
    else report.left_out.push_back(entry.own_name);
  }
  CAMO_CHECK_CODE(checkpoint, !written.empty(), in.string(), ": no tensor has a name among ", name(*options.map));
  if (format == Format::safetensors) write_safetensors(out, {.tensors = written, .metadata = {{"format", "pt"}}});
  else write_pth(out, dict_of(written));
  report.to = concat_text("a state dict", options.map ? concat_text(" with ", name(*options.map), " names") : "");
  report.tensors = written.size();
  return report;
}

}  // namespace camo
