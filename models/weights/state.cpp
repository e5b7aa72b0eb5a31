#include "models/weights/state.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "core/checksums.h"
#include "core/error.h"
#include "ops/shape_ops.h"

namespace camo {
namespace {

constexpr std::array<std::string_view, 4> kAverageGroups{"ema_state_dict", "ema_state_dict/shadow", "model_ema", "ema"};
constexpr std::array<std::string_view, 4> kPlainGroups{"model_state_dict", "state_dict", "model", ""};

std::string group_of(const std::string& name) {
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? "" : name.substr(0, slash);
}

/// The tensors of one group. `known` are names that are there already.
void append_group(const TensorFile& file, const std::string& group, std::unordered_set<std::string>& known,
                  bool skip_known, std::vector<StateEntry>& entries) {
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const std::string& name = file.tensors()[i].name;
    if (group_of(name) != group) continue;
    const std::string own = without_wrappers(name.substr(group.empty() ? 0 : group.size() + 1));
    const bool is_new = known.insert(own).second;
    CAMO_CHECK_CODE(checkpoint, is_new || skip_known, file.path().string(), ": names must be unique without 'module.' ",
                    "and '_orig_mod.'; got '", own, "' twice");
    if (is_new) entries.push_back({own, own, i});
  }
}

/// The same extents, leaving out those of 1: a 1x1 convolution kept as a linear layer, or the other way round.
bool same_but_ones(const Shape& a, const Shape& b) {
  const auto without_ones = [](const Shape& shape) {
    std::vector<int64_t> extents;
    std::ranges::copy_if(shape, std::back_inserter(extents), [](int64_t extent) { return extent != 1; });
    return extents;
  };
  return without_ones(a) == without_ones(b);
}

bool is_classifier(const std::string& name) { return name.starts_with("head."); }

std::string describe(const TensorInfo& info) { return concat_text(info.stored_type, " ", info.shape); }

/// Pairs the tensors of a network with those of a file.
struct Pairing {
  std::vector<std::pair<NamedTensor, size_t>> pairs;
  StateMismatch mismatch;
  std::vector<std::string> unused;
  size_t wanted = 0;
};

Pairing pair_up(const Module& network, const TensorFile& file, const FileState& state, bool backbone_only) {
  Pairing result;
  std::unordered_map<std::string, const StateEntry*> given;
  for (const StateEntry& entry : state.entries) given.emplace(entry.name, &entry);
  std::unordered_set<std::string> own;
  std::vector<NamedTensor> tensors = network.named_parameters();
  for (NamedTensor& buffer : network.named_buffers()) tensors.push_back(std::move(buffer));
  for (NamedTensor& tensor : tensors) {
    if (backbone_only && !tensor.name.starts_with("backbone.")) continue;
    ++result.wanted;
    own.insert(tensor.name);
    const auto found = given.find(tensor.name);
    if (found == given.end()) {
      result.mismatch.missing.push_back(tensor.name);
      continue;
    }
    const TensorInfo& info = file.tensors()[found->second->index];
    const Shape shape = tensor.exported_shape();
    const bool fits = shape == info.shape || (state.form == NameForm::authors && same_but_ones(shape, info.shape));
    if (!fits || is_floating(info.dtype) != is_floating(tensor.tensor.dtype())) {
      result.mismatch.mismatched.push_back(
          concat_text(tensor.name, ": network ", tensor.tensor.dtype(), " ", shape, ", file ", describe(info)));
      continue;
    }
    result.pairs.emplace_back(std::move(tensor), found->second->index);
  }
  for (const StateEntry& entry : state.entries) {
    if (own.contains(entry.name)) continue;
    auto& list = backbone_only && is_classifier(entry.name) ? result.unused : result.mismatch.unexpected;
    list.push_back(entry.own_name);
  }
  std::ranges::sort(result.pairs, {}, [](const auto& pair) { return pair.second; });  // in the order of the file
  return result;
}

}  // namespace

const StateEntry* FileState::find(const std::string& name) const {
  const auto found = std::ranges::find(entries, name, &StateEntry::name);
  return found == entries.end() ? nullptr : &*found;
}

std::vector<std::string> tensor_groups(const TensorFile& file) {
  std::vector<std::string> groups;
  for (const TensorInfo& info : file.tensors()) {
    const std::string group = group_of(info.name);
    if (std::ranges::find(groups, group) == groups.end()) groups.push_back(group);
  }
  return groups;
}

FileState find_state(const TensorFile& file, const std::string& group) {
  const std::vector<std::string> groups = tensor_groups(file);
  const auto there = [&](std::string_view name) { return std::ranges::find(groups, name) != groups.end(); };
  const auto first_of = [&](const auto& names) {
    const auto found = std::ranges::find_if(names, there);
    return found == names.end() ? std::optional<std::string>() : std::string(*found);
  };
  const auto refuse = [&](const char* rule) {
    std::string list;
    for (const std::string& name : groups) list += (list.empty() ? "'" : ", '") + name + "'";
    fail(ErrorCode::checkpoint, file.path().string(), ": ", rule, "; the file has ",
         groups.empty() ? "no tensors" : "tensors in " + list, "; choose with --group");
  };
  FileState state;
  const auto average = first_of(kAverageGroups), plain = first_of(kPlainGroups);
  if (!group.empty()) {
    if (!there(group)) refuse(concat_text("must have tensors in '", group, "'").c_str());
    state.group = group;
  } else if (average || plain) {
    state.group = average ? *average : *plain;
  } else if (groups.size() == 1) {
    state.group = groups.front();
  } else {
    refuse("must hold one state dict");
  }
  state.averaged = std::ranges::find(kAverageGroups, state.group) != kAverageGroups.end();
  std::unordered_set<std::string> known;
  append_group(file, state.group, known, false, state.entries);
  if (state.averaged && plain) {  // averages of parameters alone lack the buffers
    const size_t before = state.entries.size();
    append_group(file, *plain, known, true, state.entries);
    if (state.entries.size() > before) state.completed_from = plain->empty() ? "the weights" : *plain;
  }
  std::vector<std::string> names;
  for (const StateEntry& entry : state.entries) names.push_back(entry.name);
  state.form = detect_form(names);
  if (state.form) {
    for (StateEntry& entry : state.entries) entry.name = to_camoxpert(*state.form, entry.own_name);
  }
  return state;
}

std::string LoadReport::str() const {
  std::string text = concat_text(source, ": ", loaded, " of ", of, backbone_only ? " backbone" : "", " tensors");
  if (!unused.empty()) text += concat_text(", ", unused.size(), " of a classifier left out");
  if (!mismatch.empty()) text += "\n" + mismatch.str();
  return text;
}

LoadReport load_state(Module& network, const TensorFile& file, const FileState& state, const LoadOptions& options) {
  const std::string path = file.path().string();
  CAMO_CHECK_CODE(checkpoint, state.form.has_value(), path, ": the names must be those of CamoXpert or of an EdgeNeXt ",
                  "(timm, or its authors); got '", state.entries.empty() ? "" : state.entries.front().own_name,
                  "', ...");
  LoadReport report;
  report.backbone_only = state.form != NameForm::camoxpert;
  Pairing pairing = pair_up(network, file, state, report.backbone_only);
  report.source = concat_text(
      path, ": ", name(*state.form), " names", state.group.empty() ? "" : concat_text(" in '", state.group, "'"),
      state.completed_from.empty() ? "" : concat_text(", completed from ", state.completed_from));
  report.of = pairing.wanted;
  report.unused = std::move(pairing.unused);
  report.mismatch = std::move(pairing.mismatch);
  CAMO_CHECK_CODE(checkpoint, options.partial || report.mismatch.empty(), report.source,
                  ": the tensors do not fit the network; nothing was loaded", options.remedy, "\n",
                  report.mismatch.str());
  CAMO_CHECK_CODE(checkpoint, !pairing.pairs.empty(), report.source, ": no tensor fits the network\n",
                  report.mismatch.str());
  for (const auto& [target, index] : pairing.pairs) {
    const TensorInfo& info = file.tensors()[index];
    const Tensor& tensor = target.tensor;
    if (target.layout == Layout::plain && tensor.device().is_cpu() && tensor.dtype() == info.dtype &&
        tensor.shape() == info.shape) {
      file.read_into(index, tensor);  // without a copy beside it
    } else {
      const Tensor values = file.read(index);
      const Shape shape = target.exported_shape();
      target.import(values.shape() == shape ? values : reshape(values, shape));
    }
    ++report.loaded;
  }
  return report;
}

LoadReport load_weights(Module& network, const std::filesystem::path& path, const LoadOptions& options) {
  const auto file = open_tensor_file(path);
  verify_checksums(*file);
  return load_state(network, *file, find_state(*file), options);
}

}  // namespace camo
