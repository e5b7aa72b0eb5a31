#include "apps/camoxpert/training/train_options.h"

#include <CLI/CLI.hpp>

#include "apps/camoxpert/bad_images.h"
#include "apps/camoxpert/training/on_nan.h"
#include "apps/camoxpert/training/validation.h"
#include "core/error.h"
#include "data/loader.h"

namespace camo::app {

void TrainOptions::add_to(CLI::App& command) {
  common.add_to(command);
  common.add_amp(command);
  common.add_cuda_graphs(command);
  const auto option = [&](const char* flag, auto& value, const char* text, const char* group) {
    return command.add_option(flag, value, text)->capture_default_str()->group(group);
  };
  const char* const data = "Data";
  option("--dataset-path", dataset_path, "Data set folder; several joined with '+'", data)->required();
  option("--val-path", val_path, "Validation set; default: the test split of --dataset-path", data);
  option("--val-fraction", val_fraction, "Share of the validation set that is used, from its start", data);
  option("--img-size", img_size, "Side of the square pictures the network sees", data);
  option("--num-workers", num_workers, "Threads that decode pictures; 0 decodes between the steps", data);
  option("--cache-mb", cache_mb, "Keep resized pictures in memory when the set fits into so many MiB", data);
  add_on_bad_image(command, on_bad_image)->group(data);
  option("--aug", aug,
         "Random changes of training pictures: light (mirror, quarter turns), strong (also warps, colour, blur, noise, "
         "holes, "
         "mix-up) or off",
         data);

  const char* const model = "Network";
  option("--backbone", network.backbone, "edgenext_xx_small, edgenext_x_small, edgenext_small or edgenext_base", model);
  option("--num-experts", network.num_experts, "Experts per stage; half of them (at least 2) run per picture", model);
  option("--attention-heads", network.attention_heads, "Heads of the attention experts; must divide the channels",
         model);
  option("--dropout", network.dropout, "Probability of the dropouts", model);
  option("--pretrained", pretrained,
         "Weights to begin with: an EdgeNeXt (timm or its authors) or a CamoXpert; .pth or .safetensors", model);
  command.add_flag("--partial", partial, "Load what fits of --pretrained, and list the rest")->group(model);
  command.add_flag("--deep-supervision", network.deep_supervision, "Also train heads on the decoder's inner maps")
      ->group(model);
  command.add_flag("--gradient-checkpointing", network.gradient_checkpointing, "Less memory for more time")
      ->group(model);

  const char* const training = "Training";
  option("--loss", loss, "advanced_cod, camoxpert, structure or dice", training);
  option("--epochs", epochs, "Epochs in all", training);
  option("--stage1-epochs", stage1_epochs, "First epochs, with the backbone frozen", training);
  option("--batch-size", batch_size, "Pictures per backward pass", training);
  option("--accumulation-steps", accumulation_steps, "Backward passes per optimizer step", training);
  option("--lr", lr, "Largest learning rate of the schedule", training);
  option("--schedule", schedule, "Learning rate over the steps of a stage: onecycle or cosine", training);
  option("--warmup", warmup, "Share of a stage's steps in which the learning rate grows", training);
  option("--backbone-lr-scale", backbone_lr_scale, "The backbone's share of --lr; use 1 when training from scratch",
         training);
  option("--weight-decay", weight_decay, "Of AdamW", training);
  option("--clip-norm", clip_norm, "Largest gradient norm; larger gradients are scaled down", training);
  option("--loss-scale", loss_scale, "First loss scale of --amp fp16; it adapts", training);
  command.add_flag("--use-ema", use_ema, "Validate and save a moving average of the weights")->group(training);
  option("--ema-decay", ema_decay, "Decay per step of the moving average", training);

  const char* const run = "Run";
  option("--checkpoint-dir", checkpoint_dir, "Run folder (made if missing)", run);
  option("--resume", resume, "Go on from a stopped run: auto (the run folder's newest valid checkpoint) or a file",
         run);
  command.add_flag("--overwrite", overwrite, "Replace the run that the run folder holds")->group(run);
  option("--save-every", save_every, "Optimizer steps between checkpoints; 0: at the end of each epoch", run);
  option("--on-nan", on_nan, "A step that is not finite: stop, skip:N (at most N a run) or rollback", run);
  option("--best-by", best_by, "Validation score that makes a checkpoint the best: iou or s-measure", run);
  option("--patience", patience, "Stop the last stage after so many validations without a better score; 0: never", run);
  option("--expert-report-every", expert_report_every, "Epochs between tables of expert usage", run);
  option("--max-steps", max_steps, "Stop after so many optimizer steps; 0: no limit", run);
  option("--max-time", max_time, "Stop after so many seconds; 0: no limit", run);
  option("--validate-every", validate_every, "Epochs between validations", run);
  option("--seed", seed, "Of initial weights, order, augmentation and dropout", run);
}

void TrainOptions::check() const {
  const auto at_least = [](const char* flag, double value, double limit) {
    CAMO_CHECK_CODE(usage, value >= limit, flag, ": must be at least ", limit, "; got ", value);
  };
  parse_on_bad_image(on_bad_image);
  parse_augmentation_set(aug);
  const auto within = [](const char* flag, int64_t value, int64_t first, int64_t last) {
    CAMO_CHECK_CODE(usage, value >= first && value <= last, flag, ": must be within ", first, " and ", last, "; got ",
                    value);
  };
  constexpr int64_t kMany = 1'000'000;  // products of such counts fit
  within("--img-size", img_size, kSmallestSide, kLargestSide);
  within("--epochs", epochs, 1, kMany);
  at_least("--stage1-epochs", static_cast<double>(stage1_epochs), 0);
  at_least("--batch-size", static_cast<double>(batch_size), 1);
  within("--accumulation-steps", accumulation_steps, 1, kMany);
  within("--num-workers", num_workers, 0, LoaderOptions::kMostWorkers);
  within("--cache-mb", cache_mb, 0, int64_t{1} << 30);
  at_least("--weight-decay", weight_decay, 0);
  at_least("--max-steps", static_cast<double>(max_steps), 0);
  at_least("--max-time", max_time, 0);
  at_least("--validate-every", static_cast<double>(validate_every), 1);
  CAMO_CHECK_CODE(usage, !partial || !pretrained.empty(), "--partial: needs --pretrained FILE");
  at_least("--save-every", static_cast<double>(save_every), 0);
  at_least("--patience", static_cast<double>(patience), 0);
  at_least("--expert-report-every", static_cast<double>(expert_report_every), 1);
  // Together they bound the weights, whatever the gradients: a step adds at most about 10 lr and decay never grows
  // them.
  constexpr double kLargestRate = 1e6;
  CAMO_CHECK_CODE(usage, lr > 0 && lr <= kLargestRate, "--lr: must be above 0 and at most ", kLargestRate, "; got ",
                  lr);
  CAMO_CHECK_CODE(usage, backbone_lr_scale >= 0 && backbone_lr_scale <= 1,
                  "--backbone-lr-scale: must be in [0, 1]; got ", backbone_lr_scale);
  CAMO_CHECK_CODE(usage, lr * weight_decay <= 1, "--weight-decay: must be at most 1 / --lr (", 1 / lr, "); got ",
                  weight_decay);
  CAMO_CHECK_CODE(usage, schedule == "onecycle" || schedule == "cosine", "--schedule: must be onecycle or cosine; got ",
                  schedule);
  CAMO_CHECK_CODE(usage, warmup >= 0 && warmup <= 1, "--warmup: must be in [0, 1]; got ", warmup);
  CAMO_CHECK_CODE(usage, common.cuda_graphs != "on" || !network.gradient_checkpointing,
                  "--cuda-graphs on: not with --gradient-checkpointing, whose steps are not recorded; use auto");
  parse_on_nan(on_nan);
  best_score_name(best_by);
  CAMO_CHECK_CODE(usage, clip_norm > 0, "--clip-norm: must be above 0; got ", clip_norm);
  CAMO_CHECK_CODE(usage, loss_scale >= 1 && loss_scale <= 0x1p64, "--loss-scale: must be between 1 and 2^64; got ",
                  loss_scale);
  CAMO_CHECK_CODE(usage, stage1_epochs <= epochs, "--stage1-epochs: must be at most --epochs (", epochs, "); got ",
                  stage1_epochs);
  CAMO_CHECK_CODE(usage, val_fraction > 0 && val_fraction <= 1, "--val-fraction: must be in (0, 1]; got ",
                  val_fraction);
  CAMO_CHECK_CODE(usage, ema_decay >= 0 && ema_decay < 1, "--ema-decay: must be in [0, 1); got ", ema_decay);
}

}  // namespace camo::app
