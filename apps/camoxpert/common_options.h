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

  void add_to(CLI::App& command);
  /// Applies --threads and returns the device; throws with the reason when it can't be used.
  Device apply() const;
};

}  // namespace camo::app
