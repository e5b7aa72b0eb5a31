// Checkpoints of CamoXpert: safetensors whose metadata say which network they hold.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "core/safetensors.h"
#include "models/camoxpert/network.h"
#include "nn/optim/ema.h"

namespace camo {

/// What a checkpoint says besides its weights.
struct CheckpointInfo {
  CamoXpertSpec spec;
  int64_t img_size = 384;  // side of the pictures it was trained on
  int64_t epoch = 0;       // epochs trained
  int64_t step = 0;        // optimizer steps
  double iou = 0;          // on the validation set, when saved
};

/// What training needs besides the network to go on. Null or empty: not part of the file.
struct TrainingParts {
  const Ema* ema = nullptr;
  const AdamW* optimizer = nullptr;
  std::string run_state;  // text of the training loop, kept in the metadata
};

/// Writes all parameters and buffers under their own names, in checkpoint layout, averages as "ema/NAME",
/// the optimizer's state as "optimizer/NAME...", and a checksum of each tensor. Atomic: an interrupted save leaves the
/// old file.
void save_checkpoint(const std::filesystem::path& path, const CamoXpert& network, const CheckpointInfo& info,
                     const TrainingParts& parts = {});

/// A checkpoint file taken apart.
struct CheckpointContents {
  CheckpointInfo info;
  StateDict weights, averages, optimizer;
  std::string run_state;
};

/// Throws ErrorCode::checkpoint when the file is no checkpoint, or a checksum in it does not agree.
CheckpointContents read_checkpoint(const std::filesystem::path& path);

struct LoadedCheckpoint {
  CheckpointInfo info;
  std::unique_ptr<CamoXpert> network;  // in evaluation mode
  bool averaged = false;               // whether the weights are the moving averages
};

/// Builds the network that a file holds and loads its moving averages where it has them, else its weights. Our
/// checkpoints, those of the reference's training script (.pth), and bare state dicts of a whole CamoXpert are
/// understood; see describe_camoxpert(). `expected_backbone` (empty: any) must agree with the file. Throws
/// ErrorCode::checkpoint before anything is built when the file is no checkpoint, damaged, of another backbone, or does
/// not fit. Takes little more memory than the network: tensors are read one at a time.
LoadedCheckpoint load_checkpoint(const std::filesystem::path& path, const std::string& expected_backbone = {});

/// The metadata alone.
CheckpointInfo read_checkpoint_info(const SafeTensors& file, const std::filesystem::path& path);

}  // namespace camo
