// camoxpert verify-moe: is the routing of a trained network what it should be, and who does the work?
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/moe_checks.h"
#include "apps/camoxpert/progress.h"
#include "data/transforms.h"
#include "models/camoxpert/checkpoint.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::app {

namespace {

struct VerifyMoeOptions {
  CommonOptions common;
  std::string dataset_path, checkpoint, on_bad_image = "error";
  int64_t img_size = 0, batch_size = 4, num_samples = 0;
};

void print_usage(const std::vector<StageRouting>& stages) {
  fmt::print("\nshare of the choices, and mean weight when chosen\n{:<7}", "stage");
  for (size_t e = 0; e < stages.front().counts.size(); ++e)
    fmt::print(" {:>13}", fmt::format("{} {}", e, kExpertNames[e % kExpertNames.size()]));
  fmt::print(" {:>9} {:>12}\n", "balance", "loss");
  for (size_t s = 0; s < stages.size(); ++s) {
    const StageRouting& stage = stages[s];
    fmt::print("{:<7}", s + 1);
    for (size_t e = 0; e < stage.counts.size(); ++e) {
      fmt::print(" {:>13}", stage.counts[e] == 0
                                ? "never"
                                : fmt::format("{:.1f} %  {:.2f}", 100 * stage.share(e), stage.mean_weight(e)));
    }
    fmt::print(" {:>9.3f} {:>12.2e}\n", stage.balance(), load_balance_loss(stage.counts));
  }
  for (size_t s = 0; s < stages.size(); ++s) {
    for (size_t e = 0; e < stages[s].counts.size(); ++e) {
      if (stages[s].counts[e] == 0)
        fmt::print("warning: stage {}: no picture chose expert {} ({})\n", s + 1, e,
                   kExpertNames[e % kExpertNames.size()]);
    }
  }
}

void run_verify_moe(const VerifyMoeOptions& options) {
  const Device device = options.common.apply();
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  CAMO_CHECK_CODE(usage, options.num_samples >= 0, "--num-samples: must not be negative; got ", options.num_samples);
  check_img_size(options.img_size);
  const int64_t limit = parse_on_bad_image(options.on_bad_image);
  Dataset dataset = find_dataset(options.dataset_path, Split::test, Unpaired::collect);
  std::vector<Sample> samples = std::move(dataset.samples);
  BadImages bad(limit, std::move(dataset.unpaired));
  if (options.num_samples > 0 && options.num_samples < static_cast<int64_t>(samples.size()))
    samples.resize(static_cast<size_t>(options.num_samples));
  const LoadedCheckpoint loaded = load_checkpoint(options.checkpoint);
  loaded.network->to(device, f32);
  const int img_size = static_cast<int>(options.img_size > 0 ? options.img_size : loaded.info.img_size);
  const double tolerance = device.is_cuda() && options.common.tf32 ? 2e-2 : 1e-4;

  MoeChecks checks(*loaded.network);
  Progress progress("verify-moe", static_cast<int64_t>(samples.size()), "images");
  TolerantReader<Tensor> reader(samples.size(), bad, [&](size_t i) {
    const NoGrad no_grad;
    return to_network_input(decode_image(samples[i].image, 3), img_size);
  });
  int64_t pictures = 0;
  for (auto batch = reader.next(static_cast<size_t>(options.batch_size)); !batch.empty();
       batch = reader.next(static_cast<size_t>(options.batch_size))) {
    Tensors inputs;
    for (const auto& [number, input] : batch) inputs.push_back(input);
    checks.add(to(concat(inputs, 0), device));
    pictures += static_cast<int64_t>(batch.size());
    progress.update(static_cast<int64_t>(reader.position()));
  }
  progress.finish();
  bad.report();
  CAMO_CHECK_CODE(data, pictures > 0, "verify-moe: none of the pictures in ", options.dataset_path, " can be read");
  fmt::print("{} pictures, {} at {} px, {} experts, {} per picture\n\n", pictures, loaded.info.spec.backbone, img_size,
             loaded.info.spec.num_experts, checks.chosen_per_image());
  bool all_hold = true;
  for (const MoeCheck& check : checks.results(tolerance)) {
    fmt::print("{:<6} {:<66} largest deviation {:.1e}, allowed {:.0e}\n", check.holds() ? "ok" : "WRONG", check.rule,
               check.worst, check.allowed);
    all_hold = all_hold && check.holds();
  }
  print_usage(checks.stages());
  CAMO_CHECK(all_hold, "verify-moe: the routing breaks a rule; see the lines marked WRONG");
}

}  // namespace

Command add_verify_moe_command(CLI::App& app) {
  auto options = std::make_shared<VerifyMoeOptions>();
  CLI::App* flags = app.add_subcommand("verify-moe", "Check the routing of a network's experts and show who is chosen");
  options->common.add_to(*flags);
  flags->add_option("--dataset-path", options->dataset_path, "Data set folder; several joined with '+'")->required();
  flags->add_option("--checkpoint", options->checkpoint, "Checkpoint to look at")->required();
  flags->add_option("--num-samples", options->num_samples, "Pictures to use, from the start; 0: all")
      ->capture_default_str();
  flags->add_option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's")
      ->capture_default_str();
  flags->add_option("--batch-size", options->batch_size, "Pictures at a time")->capture_default_str();
  add_on_bad_image(*flags, options->on_bad_image);
  return {flags, [options] { run_verify_moe(*options); }};
}

}  // namespace camo::app
