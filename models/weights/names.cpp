#include "models/weights/names.h"

#include <algorithm>
#include <cctype>

#include "core/error.h"

namespace camo {
namespace {

using Parts = std::vector<std::string>;

Parts split(const std::string& name) {
  Parts parts;
  size_t begin = 0;
  for (size_t dot = 0; (dot = name.find('.', begin)) != std::string::npos; begin = dot + 1) {
    parts.push_back(name.substr(begin, dot - begin));
  }
  parts.push_back(name.substr(begin));
  return parts;
}

std::string join(const Parts& parts, size_t begin = 0) {
  std::string name;
  for (size_t i = begin; i < parts.size(); ++i) name += (i > begin ? "." : "") + parts[i];
  return name;
}

bool is_number(const Parts& parts, size_t i) {
  return i < parts.size() && !parts[i].empty() &&
         std::ranges::all_of(parts[i], [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// Exchanges two names of layers within a block, both ways.
struct Renamed {
  std::string_view features, authors;
};
constexpr std::array<Renamed, 3> kBlockLayers{
    {{"conv_dw.", "dwconv."}, {"mlp.fc1.", "pwconv1."}, {"mlp.fc2.", "pwconv2."}}};

std::string renamed_layer(const std::string& rest, std::string_view Renamed::*from, std::string_view Renamed::*to) {
  for (const Renamed& layer : kBlockLayers) {
    if (rest.starts_with(layer.*from)) return std::string(layer.*to) + rest.substr((layer.*from).size());
  }
  return rest;
}

std::string timm_to_features(const Parts& parts) {
  const bool numbered = (parts[0] == "stem" || parts[0] == "stages") && is_number(parts, 1) && parts.size() > 2;
  return numbered ? parts[0] + "_" + parts[1] + "." + join(parts, 2) : join(parts);
}

std::string authors_to_features(const Parts& parts) {
  if (parts[0] == "downsample_layers" && is_number(parts, 1) && parts.size() > 3) {
    if (parts[1] == "0") return "stem_" + join(parts, 2);
    return "stages_" + parts[1] + ".downsample." + join(parts, 2);
  }
  if (parts[0] == "stages" && is_number(parts, 1) && is_number(parts, 2) && parts.size() > 3) {
    return "stages_" + parts[1] + ".blocks." + parts[2] + "." +
           renamed_layer(join(parts, 3), &Renamed::authors, &Renamed::features);
  }
  return join(parts);
}

std::string features_to_timm(const std::string& name) {
  std::string out = name;
  for (const std::string_view start : {"stem_", "stages_"}) {
    if (name.starts_with(start)) out[start.size() - 1] = '.';
  }
  return out;
}

std::optional<std::string> features_to_authors(const Parts& parts) {
  const bool is_stem = parts[0].starts_with("stem_"), is_downsample = parts.size() > 2 && parts[1] == "downsample";
  if (parts.size() < (is_stem ? 2u : is_downsample ? 3u : 4u)) return std::nullopt;
  if (is_stem) return "downsample_layers.0." + parts[0].substr(5) + "." + join(parts, 1);
  const std::string stage = parts[0].substr(std::string_view("stages_").size());
  if (is_downsample) return "downsample_layers." + stage + "." + join(parts, 2);
  return "stages." + stage + "." + parts[2] + "." +
         renamed_layer(join(parts, 3), &Renamed::features, &Renamed::authors);
}

constexpr std::string_view kBackbone = "backbone.", kHeadNorm = "head.norm.", kHeadLinear = "head.fc.";

bool is_backbone_part(const std::string& name) { return name.starts_with("stem_") || name.starts_with("stages_"); }

}  // namespace

std::string_view name(NameForm form) {
  for (const NamedForm& named : kNameForms) {
    if (named.form == form) return named.name;
  }
  return "unknown";
}

NameForm parse_name_form(std::string_view text) {
  std::string known;
  for (const NamedForm& named : kNameForms) {
    if (named.name == text) return named.form;
    known += (known.empty() ? "" : ", ") + std::string(named.name);
  }
  fail(ErrorCode::usage, "--map: must be one of ", known, "; got ", text);
}

std::string without_wrappers(std::string name) {
  constexpr std::string_view kParallel = "module.", kCompiled = "_orig_mod.";
  while (name.starts_with(kParallel) || name.starts_with(kCompiled)) {
    name.erase(0, name.starts_with(kParallel) ? kParallel.size() : kCompiled.size());
  }
  for (size_t at = 0; (at = name.find("." + std::string(kCompiled))) != std::string::npos;) {
    name.erase(at + 1, kCompiled.size());  // a compiled submodule
  }
  return name;
}

std::optional<NameForm> detect_form(const std::vector<std::string>& names) {
  const auto any = [&](std::string_view start) {
    return std::ranges::any_of(names, [&](const std::string& name) { return name.starts_with(start); });
  };
  if (any("backbone.stem_0.") || any("moe_layers.") || any("decoder_blocks.")) return NameForm::camoxpert;
  if (any("stem_0.") || any("stages_0.")) return NameForm::timm_features;
  if (any("downsample_layers.")) return NameForm::authors;
  if (any("stem.0.") || any("stages.0.blocks.")) return NameForm::timm;
  return std::nullopt;
}

std::string to_camoxpert(NameForm form, const std::string& name) {
  if (form == NameForm::camoxpert) return name;
  const Parts parts = split(name);
  std::string features = name;
  if (form == NameForm::timm) features = timm_to_features(parts);
  if (form == NameForm::authors) {
    if (parts[0] == "norm") return std::string(kHeadNorm) + join(parts, 1);
    if (parts[0] == "head") return std::string(kHeadLinear) + join(parts, 1);
    features = authors_to_features(parts);
  }
  return is_backbone_part(features) ? std::string(kBackbone) + features : features;
}

std::optional<std::string> from_camoxpert(NameForm form, const std::string& name) {
  if (form == NameForm::camoxpert) return name;
  const bool is_head = name.starts_with(kHeadNorm) || name.starts_with(kHeadLinear);
  if (is_head) {
    if (form == NameForm::timm) return name;
    if (form == NameForm::timm_features) return std::nullopt;
    return name.starts_with(kHeadNorm) ? "norm." + name.substr(kHeadNorm.size())
                                       : "head." + name.substr(kHeadLinear.size());
  }
  if (!name.starts_with(kBackbone) || !is_backbone_part(name.substr(kBackbone.size()))) return std::nullopt;
  const std::string features = name.substr(kBackbone.size());
  if (form == NameForm::timm) return features_to_timm(features);
  if (form == NameForm::authors) return features_to_authors(split(features));
  return features;
}

}  // namespace camo
