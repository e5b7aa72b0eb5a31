// What network a state dict belongs to.
#pragma once

#include <memory>
#include <optional>

#include "models/camoxpert/checkpoint.h"
#include "models/weights/state.h"

namespace camo {

/// What a file says about a whole CamoXpert: the metadata of our checkpoints; else the shapes of the tensors, and the
/// texts that the reference's training script saves beside them (args/img_size, epoch, best_iou). The number of
/// attention heads leaves no trace in the shapes: 8, the reference's, unless that does not divide the channels. Nothing
/// when the tensors are not those of a CamoXpert.
std::optional<CheckpointInfo> describe_camoxpert(const TensorFile& file, const FileState& state);

/// Throws ErrorCode::checkpoint when numbers are none that training can have had: predictions are made at that size.
void check_info(const CheckpointInfo& info, const std::filesystem::path& path);

/// The EdgeNeXt variant whose shapes the tensors have; null when there is none.
const EdgeNeXtSpec* describe_backbone(const TensorFile& file, const FileState& state);

/// The network of such a file, its values loaded.
std::unique_ptr<CamoXpert> build_network(const TensorFile& file, const FileState& state, const CheckpointInfo& info);

}  // namespace camo
