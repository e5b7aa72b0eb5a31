// The settings of a training run. Flag names are those of the reference.
#pragma once

#include <cstdint>
#include <string>

#include "apps/camoxpert/common_options.h"
#include "models/camoxpert/network.h"

namespace CLI {
class App;
}

namespace camo::app {

struct TrainOptions {
  CommonOptions common;
  // data
  std::string dataset_path, val_path;
  double val_fraction = 0.2;
  int img_size = 384;
  int num_workers = 2;
  int64_t cache_mb = 2048;
  std::string on_bad_image = "error";
  std::string aug = "light";
  // network
  CamoXpertSpec network{.deep_supervision = false};
  std::string pretrained;  // weight file; empty: random weights
  bool partial = false;    // take from it what fits
  // optimisation
  std::string loss = "advanced_cod";
  int64_t epochs = 120, stage1_epochs = 30;
  int64_t batch_size = 2, accumulation_steps = 4;
  double lr = 2.5e-4, backbone_lr_scale = 0.1, weight_decay = 1e-4, clip_norm = 1, loss_scale = 65536;
  std::string schedule = "onecycle";
  double warmup = 0.1;  // share of a stage's steps
  bool use_ema = false;
  double ema_decay = 0.9999;
  // the run
  std::string checkpoint_dir = "runs/camoxpert";
  std::string resume;  // "auto" or a checkpoint
  bool overwrite = false;
  int64_t save_every = 0;  // steps
  std::string on_nan = "stop";
  std::string best_by = "iou";
  int64_t patience = 0;  // validations
  int64_t expert_report_every = 10;
  int64_t max_steps = 0;
  double max_time = 0;  // seconds
  int64_t validate_every = 1;
  uint64_t seed = 42;

  void add_to(CLI::App& command);
  /// Throws ErrorCode::usage naming the flag, what it must be and what came.
  void check() const;
};

}  // namespace camo::app
