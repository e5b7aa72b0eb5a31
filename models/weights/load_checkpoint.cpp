// load_checkpoint() of models/camoxpert/checkpoint.h.
#include "core/checksums.h"
#include "models/camoxpert/checkpoint.h"
#include "models/weights/describe.h"
#include "nn/init.h"

namespace camo {

std::unique_ptr<CamoXpert> build_network(const TensorFile& file, const FileState& state, const CheckpointInfo& info) {
  std::unique_ptr<CamoXpert> network;
  try {
    const SkipInit skip;
    network = std::make_unique<CamoXpert>(info.spec);
    load_state(*network, file, state, {.remedy = ""});
  } catch (const Error& error) {
    fail(ErrorCode::checkpoint, file.path().string(), ": does not hold the network it names\n  ", error.what());
  }
  return network;
}

LoadedCheckpoint load_checkpoint(const std::filesystem::path& path, const std::string& expected_backbone) {
  const auto file = open_tensor_file(path);
  verify_checksums(*file);
  const FileState state = find_state(*file);
  const auto info = describe_camoxpert(*file, state);
  CAMO_CHECK_CODE(checkpoint, info.has_value(), path.string(), ": is not a checkpoint of camoxpert, nor a ",
                  "state dict of all its tensors; got ", state.form ? name(*state.form) : "unknown",
                  " names; a backbone alone is for `train --pretrained`");
  CAMO_CHECK_CODE(checkpoint, expected_backbone.empty() || expected_backbone == info->spec.backbone, path.string(),
                  ": the checkpoint holds backbone ", info->spec.backbone, "; got --backbone ", expected_backbone,
                  "; leave the flag out to use the checkpoint's");
  LoadedCheckpoint loaded{.info = *info, .network = build_network(*file, state, *info), .averaged = state.averaged};
  loaded.network->eval();
  return loaded;
}

}  // namespace camo
