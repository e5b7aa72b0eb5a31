// The state dict inside a weight file, under CamoXpert's names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/tensor_file.h"
#include "models/weights/names.h"
#include "nn/module.h"

namespace camo {

/// One tensor of a state dict.
struct StateEntry {
  std::string name;      // CamoXpert's, or the file's when its form is unknown
  std::string own_name;  // in the file's dict, without wrappers
  size_t index = 0;      // in TensorFile::tensors()
};

struct FileState {
  std::string group;             // of the file: "model_state_dict", "ema", or empty
  bool averaged = false;         // whether the group holds a moving average
  std::string completed_from;    // the group that lent what the averages leave out (buffers); else empty
  std::optional<NameForm> form;  // nothing: names of another model
  std::vector<StateEntry> entries;

  const StateEntry* find(const std::string& name) const;
};

/// Groups that are searched, in this order; averages come first, as they are what training validates with.
std::vector<std::string> tensor_groups(const TensorFile& file);

/// Finds the state dict of a model: `group`, or the first of ema_state_dict, model_ema, ema, model_state_dict,
/// state_dict, model, and tensors without a group. Throws ErrorCode::checkpoint listing the file's groups when there is
/// none, and naming a tensor that appears twice once wrappers are gone.
FileState find_state(const TensorFile& file, const std::string& group = {});

struct LoadOptions {
  bool partial = false;                                     // load what fits, and list the rest, instead of throwing
  std::string_view remedy = "; --partial loads what fits";  // in the message when something does not fit
};

/// What was loaded, and what was not.
struct LoadReport {
  std::string source;               // "edgenext.pth: timm-edgenext names, 'model_ema'"
  size_t loaded = 0, of = 0;        // tensors of the module, or of the part that the file is about
  bool backbone_only = false;       // the file holds an EdgeNeXt
  std::vector<std::string> unused;  // a classifier's tensors
  StateMismatch mismatch;           // empty unless partial

  /// One line, and with a partial load the lists.
  std::string str() const;
};

/// Loads a state into a network whose names are CamoXpert's; files of a bare EdgeNeXt fill its backbone.*. Everything
/// is compared first: ErrorCode::checkpoint lists missing, unexpected and different tensors, and nothing is changed.
/// Reads one tensor at a time.
LoadReport load_state(Module& network, const TensorFile& file, const FileState& state, const LoadOptions& options = {});

/// Opens a file and loads the state that find_state() chooses.
LoadReport load_weights(Module& network, const std::filesystem::path& path, const LoadOptions& options = {});

}  // namespace camo
