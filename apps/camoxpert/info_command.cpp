// camoxpert info: what this build can do, and what a checkpoint holds.
#include <fmt/core.h>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/device.h"
#include "core/safetensors.h"
#include "models/camoxpert/checkpoint.h"

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

void print_file(const std::string& path) {
  const SafeTensors file = read_safetensors(path);
  int64_t elements = 0, bytes = 0;
  for (const auto& [name, tensor] : file.tensors) {
    fmt::print("{:<72} {:>5} {}\n", name, camo::name(tensor.dtype()), tensor.shape().str());
    elements += tensor.numel();
    bytes += tensor.numel() * size_in_bytes(tensor.dtype());
  }
  for (const auto& [key, value] : file.metadata) fmt::print("metadata {:<20} {}\n", key, value);
  fmt::print("{}: safetensors, {} tensors, {} elements, {}\n", path, file.tensors.size(), elements,
             format_bytes(bytes));
}

}  // namespace

Command add_info_command(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  CLI::App* flags = app.add_subcommand("info", "Show the build, devices and networks, or the contents of a checkpoint");
  flags->add_option("file", *path, "Checkpoint or other safetensors file");
  return {flags, [path] { path->empty() ? print_build() : print_file(*path); }};
}

}  // namespace camo::app
