// Texts of a run: what it starts with, who the experts work for, how it ended.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/camoxpert/training/data_plan.h"
#include "apps/camoxpert/training/run_folder.h"
#include "apps/camoxpert/training/run_state.h"
#include "apps/camoxpert/training/train_options.h"
#include "models/camoxpert/network.h"

namespace camo::app {

/// System, device, network, attention kernels, data, memory, and where the weights come from (empty: random ones).
void report_start(RunFolder& folder, const TrainOptions& options, const CamoXpert& network, const DataPlan& data,
                  Device device, bool caching, const std::string& weights);

/// Share of the choices per expert, one line per stage of the network. An expert that nobody chose is marked.
std::string expert_table(const std::vector<std::vector<int64_t>>& counts);

/// The end of a run in a few lines.
std::string run_summary(const RunState& state, const TrainOptions& options, const std::string& reason,
                        int64_t peak_bytes);

}  // namespace camo::app
