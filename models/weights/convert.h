// Weight files from one format and naming to another.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/camoxpert/checkpoint.h"
#include "models/weights/names.h"

namespace camo {

struct ConvertOptions {
  std::optional<NameForm> map;  // nothing: names stay
  std::string group;            // of the input; empty: as find_state() chooses
};

struct ConvertReport {
  std::string from, to;               // "model_state_dict, camoxpert names", "a checkpoint of edgenext_base"
  size_t tensors = 0;                 // written
  std::vector<std::string> left_out;  // tensors that the output's form does not have
};

/// Writes the state dict of `in` to `out`; .safetensors, .pth and .pt say the format. A whole CamoXpert under its own
/// names becomes a checkpoint: of ours in safetensors, in a .pth as the reference's training script saves it
/// (model_state_dict beside epoch, best_iou and args). All else becomes a plain state dict. Throws
/// ErrorCode::checkpoint before anything is written when the names have no such map, or a CamoXpert is not complete.
ConvertReport convert_weights(const std::filesystem::path& in, const std::filesystem::path& out,
                              const ConvertOptions& options = {});

}  // namespace camo
