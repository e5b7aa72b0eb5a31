// camoxpert convert: weight files from one format and naming to another.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "models/weights/convert.h"

namespace camo::app {
namespace {

struct Options {
  std::string in, out, map, group;
};

void run(const Options& options) {
  check_made_file(options.in, options.out);
  ConvertOptions convert{.map = {}, .group = options.group};
  if (!options.map.empty()) convert.map = parse_name_form(options.map);
  const ConvertReport report = convert_weights(options.in, options.out, convert);
  fmt::print("{}: {}\n{}: {}, {} tensors\n", options.in, report.from, options.out, report.to, report.tensors);
  if (report.left_out.empty()) return;
  fmt::print("left out, as the output's names have no place for them ({}):\n", report.left_out.size());
  for (const std::string& name : report.left_out) fmt::print("  {}\n", name);
}

}  // namespace

Command add_convert_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* flags = app.add_subcommand("convert", "Convert weights between .pth, .safetensors and our checkpoints");
  flags->add_option("in", options->in, ".safetensors or .pth file")->required();
  flags->add_option("out", options->out, "File to write; .safetensors, .pth or .pt says the format")->required();
  flags->add_option(
      "--map", options->map,
      "Names to write: camoxpert, timm-features, timm-edgenext or edgenext-authors; default: as they are");
  flags->add_option("--group", options->group, "State dict to take from a .pth; default: averages, else the model's");
  return {flags, [options] { run(*options); }};
}

}  // namespace camo::app
