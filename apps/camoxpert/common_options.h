// Flags that several subcommands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "core/device.h"

namespace camo::app {

struct CommonOptions {
  std::string device = "auto";
  int threads = 0;  // 0: all cores
  bool tf32 = true;
  bool autotune = false;

  void add_to(CLI::App& command);
  /// Applies --threads, --tf32 and --autotune and returns the device; throws with the reason when it can't be used.
  Device apply() const;
  /// How f32 is computed on a device: a line for reports.
  std::string precision(Device where) const;
};

}  // namespace camo::app
