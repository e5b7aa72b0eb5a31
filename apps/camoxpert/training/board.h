// What a run shows in TensorBoard.
#pragma once

#include <filesystem>
#include <vector>

#include "apps/camoxpert/training/stepper.h"
#include "apps/camoxpert/training/tensorboard.h"
#include "apps/camoxpert/training/validation.h"

namespace camo::app {

/// Losses, gradient norm and learning rates; `backbone_lr_scale` 0 means that the backbone is frozen.
void add_step(TensorBoardWriter& board, const StepReport& report, double backbone_lr_scale);
/// The loss scale of f16, and how many steps were skipped so far because gradients overflowed.
void add_scaler(TensorBoardWriter& board, int64_t step, double loss_scale, int64_t skipped);
/// Scores, and the contact sheet (a PNG file).
void add_validation(TensorBoardWriter& board, int64_t step, const Validation& validation,
                    const std::filesystem::path& sheet);
/// The share of each stage's choices that went to each expert.
void add_expert_load(TensorBoardWriter& board, int64_t step, const std::vector<std::vector<int64_t>>& counts);

}  // namespace camo::app
