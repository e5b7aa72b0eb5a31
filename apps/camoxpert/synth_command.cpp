// camoxpert synth: a procedural data set, so that everything can be tried without pictures of one's own.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/progress.h"
#include "data/synthetic.h"

namespace camo::app {

namespace {

struct SynthOptions {
  CommonOptions common;
  SyntheticDatasetOptions dataset;
  std::string output;
  int size = 256;
  bool png = false;
};

void run_synth(SynthOptions options) {
  options.common.apply();
  options.dataset.folder = options.output;
  options.dataset.jpeg = !options.png;
  options.dataset.scene.width = options.dataset.scene.height = options.size;
  Progress progress("synth", options.dataset.train_count + options.dataset.test_count, "pairs");
  write_synthetic_dataset(options.dataset, [&](int64_t done, int64_t) { progress.update(done); });
  progress.finish();
  fmt::print("{} training and {} test pairs of {} x {} px written to {} in {}\n", options.dataset.train_count,
             options.dataset.test_count, options.size, options.size, options.output,
             format_duration(progress.seconds()));
}

}  // namespace

Command add_synth_command(CLI::App& app) {
  auto options = std::make_shared<SynthOptions>();
  CLI::App* flags = app.add_subcommand("synth", "Write a procedural camouflage data set");
  options->common.add_to(*flags);
  SyntheticDatasetOptions& dataset = options->dataset;
  flags->add_option("--output", options->output, "Folder for Train/ and Test/")->required();
  flags->add_option("--train", dataset.train_count, "Training pairs")->capture_default_str();
  flags->add_option("--test", dataset.test_count, "Test pairs")->capture_default_str();
  flags->add_option("--size", options->size, "Side of the pictures")->capture_default_str();
  flags->add_option("--cue", dataset.scene.cue, "How much gives the objects away: 0 to 1")->capture_default_str();
  flags->add_option("--seed", dataset.scene.seed, "Other scenes")->capture_default_str();
  flags->add_flag("--png", options->png, "Pictures as PNG instead of JPEG");
  return {flags, [options] { run_synth(*options); }};
}

}  // namespace camo::app
