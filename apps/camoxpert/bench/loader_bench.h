// camoxpert bench loader: training pictures a second, without a network.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/loader.h"

namespace camo::app {

struct LoaderBenchOptions {
  std::string dataset_path;
  std::string aug = "light";
  int workers = 2;
  int64_t epochs = 3;
  bool raw = false;  // as for a GPU
  // Of all benchmarks.
  int64_t batch_size = 16;
  int64_t img_size = 352;
};

/// Prints pictures a second of whole epochs, the first (which fills the system's file cache) apart, and where the time
/// of one worker goes; returns the same.
nlohmann::json run_loader_bench(const LoaderBenchOptions& options);

}  // namespace camo::app
