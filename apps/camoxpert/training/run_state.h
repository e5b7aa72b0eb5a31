// Where a run stands, besides its tensors: with them, all that a resumed run needs to go on bit for bit.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/camoxpert/training/loss_means.h"
#include "core/random.h"
#include "nn/optim/grad_scaler.h"

namespace camo::app {

/// The best validation so far.
struct BestScore {
  double value = -1;
  int64_t epoch = 0, step = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BestScore, value, epoch, step)

struct RunState {
  // Position. In the middle of an epoch, `batch` batches of epoch number `epoch` (from 0) are done.
  int64_t stage = 0, epoch = 0, batch = 0;
  int64_t step = 0, stage_step = 0;  // optimizer steps, in all and of the stage
  int64_t validated_step = -1;       // the last validation was after this step
  RandomKey random;                  // of default_generator(), at this position
  // Of the epoch so far.
  LossMeans epoch_losses;
  std::vector<std::vector<int64_t>> expert_counts;  // [layer][expert]
  // Of the run so far.
  BestScore best;
  double untrained_score = 0;
  int64_t validations_without_gain = 0;
  int64_t skipped_steps = 0, rollbacks = 0;
  int64_t images = 0;
  double seconds = 0, training_seconds = 0;
  nlohmann::json history = nlohmann::json::array();
  // What must not change from one part of a run to the next, and the resolved configuration.
  std::string data_fingerprint, config;
  nlohmann::json scaler;  // of mixed precision; null without one
};

/// One line of JSON, and back. Throws ErrorCode::checkpoint naming `source` when the text is not such a line.
std::string to_text(const RunState& state);
RunState run_state_from_text(const std::string& text, const std::string& source);

/// RunState::scaler of a scaler, and back. Throws ErrorCode::checkpoint when it is none.
nlohmann::json scaler_to_json(const GradScaler& scaler);
void load_scaler(GradScaler& scaler, const nlohmann::json& stored);

/// Compares two resolved configurations (lines `flag=value`). Throws ErrorCode::usage naming the flag when one differs
/// that gives the position in the run another meaning; returns a warning per other difference.
std::vector<std::string> compare_configs(const std::string& stored, const std::string& current);

}  // namespace camo::app
