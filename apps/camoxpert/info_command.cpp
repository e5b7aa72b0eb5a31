// camoxpert info: what this build can do, and what a checkpoint holds.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/checksums.h"
#include "core/crc32.h"
#include "core/device.h"
#include "core/safetensors.h"
#include "core/tensor_file.h"
#include "models/weights/describe.h"
#include "models/weights/state.h"

namespace camo::app {

namespace {

void print_build() {
  for (const auto& [key, value] : system_info()) fmt::print("{:<12} {}\n", key, value);
  fmt::print("\n{:<20} {:>14} {:>22}\n", "network", "backbone", "CamoXpert, 7 experts");
  for (const EdgeNeXtSpec& variant : kEdgeNeXtVariants) {
    const bool eight = variant.dims[2] % 8 == 0;
    const CamoXpert network({.backbone = std::string(variant.name), .attention_heads = eight ? 8 : 4});
    fmt::print("{:<20} {:>14} {:>22}{}\n", variant.name, network.backbone().parameter_count(),
               network.parameter_count(), eight ? "" : "  (needs --attention-heads 4)");
  }
}

/// Names the network that the tensors belong to, where it is one of ours.
std::string describe(const TensorFile& file) {
  const FileState state = find_state(file);
  std::string text = state.form ? fmt::format("{} names", name(*state.form)) : "names of another model";
  if (!state.group.empty()) text += fmt::format(" in '{}'", state.group);
  if (const auto info = describe_camoxpert(file, state)) {
    text += fmt::format(": CamoXpert on {}, {} experts", info->spec.backbone, info->spec.num_experts);
  } else if (const EdgeNeXtSpec* backbone = describe_backbone(file, state)) {
    text += fmt::format(": {}", backbone->name);
  }
  return text;
}

/// Every tensor with the CRC-32 of its values, whatever the format they are kept in.
void print_file(const std::string& path) {
  const auto file = open_tensor_file(path);
  int64_t elements = 0, bytes = 0;
  uint32_t checksum = 0;
  SafeTensors contents{.tensors = {}, .metadata = file->metadata()};
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const TensorInfo& info = file->tensors()[i];
    const Tensor tensor = file->read(i);
    const int64_t size = tensor.numel() * size_in_bytes(tensor.dtype());
    const auto span = static_cast<size_t>(size);
    fmt::print("{:<72} {:>5} {:<20} {:08x}\n", info.name, info.stored_type, info.shape.str(),
               crc32(tensor.raw_data(), span));
    checksum = crc32(tensor.raw_data(), span, checksum);
    elements += tensor.numel();
    bytes += size;
    contents.tensors.emplace_back(info.name, tensor);
  }
  constexpr size_t kShown = 100;  // characters of a value
  for (const auto& [key, value] : file->metadata()) {
    fmt::print("metadata {:<20} {}{}\n", key, value.substr(0, kShown), value.size() > kShown ? "..." : "");
  }
  if (!file->tensors().empty()) fmt::print("{}\n", describe(*file));
  if (verify_checksums(contents, path)) fmt::print("all checksums in the file agree\n");
  fmt::print("{}: {}, {} tensors, {} elements, {}, checksum {:08x}\n", path, file->format(), file->tensors().size(),
             elements, format_bytes(bytes), checksum);
}

}  // namespace

Command add_info_command(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  CLI::App* flags = app.add_subcommand("info", "Show the build, devices and networks, or the contents of a checkpoint");
  flags->add_option("file", *path, "Checkpoint or other .safetensors or .pth file");
  return {flags, [path] { path->empty() ? print_build() : print_file(*path); }};
}

}  // namespace camo::app
