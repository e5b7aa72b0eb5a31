// The names under which published EdgeNeXt weights and CamoXpert checkpoints keep their tensors, and maps between them.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace camo {

/// | form          | first convolution           | a block of stage 2                    | classifier             |
/// |---------------|-----------------------------|---------------------------------------|------------------------|
/// | camoxpert     | backbone.stem_0.weight      | backbone.stages_1.blocks.0.mlp.fc1... | -                      |
/// | timm_features | stem_0.weight               | stages_1.blocks.0.mlp.fc1...          | -                      |
/// | timm          | stem.0.weight               | stages.1.blocks.0.mlp.fc1...          | head.norm.*, head.fc.* |
/// | authors       | downsample_layers.0.0.weight| stages.1.0.pwconv1...                 | norm.*, head.*         |
enum class NameForm { camoxpert, timm_features, timm, authors };

struct NamedForm {
  NameForm form;
  std::string_view name;  // as --map takes it
};
inline constexpr std::array<NamedForm, 4> kNameForms{{{NameForm::camoxpert, "camoxpert"},
                                                      {NameForm::timm_features, "timm-features"},
                                                      {NameForm::timm, "timm-edgenext"},
                                                      {NameForm::authors, "edgenext-authors"}}};
std::string_view name(NameForm form);
/// Throws ErrorCode::usage listing the known ones.
NameForm parse_name_form(std::string_view text);

/// Drops what wrappers put in front: "module." (data parallel) and "_orig_mod." (torch.compile), in any number.
std::string without_wrappers(std::string name);

/// The form of a list of names; nothing when it is none of them.
std::optional<NameForm> detect_form(const std::vector<std::string>& names);

/// A name as CamoXpert has it. Classifiers keep the names of timm: head.norm.*, head.fc.*.
std::string to_camoxpert(NameForm form, const std::string& name);
/// The way back; nothing when the form has no such tensor.
std::optional<std::string> from_camoxpert(NameForm form, const std::string& name);

}  // namespace camo
