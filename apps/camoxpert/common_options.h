// Flags that several subcommands share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"

namespace CLI {
class App;
}

namespace camo::app {

struct CommonOptions {
  std::string device = "auto";
  int threads = 0;  // 0: all cores
  bool tf32 = true;
  bool autotune = false;
  std::string sdpa_backend = "auto";
  bool no_flash_attention = false;
  std::string amp = "off";
  std::string cuda_graphs = "auto";

  void add_to(CLI::App& command);
  /// --amp, for commands that can compute in 16 bit.
  void add_amp(CLI::App& command);
  /// --cuda-graphs, for commands that run the network.
  void add_cuda_graphs(CLI::App& command);
  /// Applies the flags and returns the device; throws with the reason when it can't be used.
  Device apply() const;
  /// --amp bf16 or fp16: the dtype of an Autocast scope around the network; f32 for off.
  DType autocast() const;
  /// How numbers are computed on a device: a line for reports.
  std::string precision(Device where) const;
};

/// Throws ErrorCode::usage unless `file` can be written there: its folder exists, and it is no folder itself. Empty
/// (nothing to write) and "-" (standard output) pass.
void check_output_file(const char* flag, const std::string& file);

/// As check_output_file(), for a file made of another one: it must not take its place, whose other contents (the state
/// of a run) would be lost.
void check_made_file(const std::string& in, const std::string& out);

constexpr int64_t kSmallestSide = 32, kLargestSide = 4096;  // of what the network sees

/// Throws ErrorCode::usage unless --img-size is 0 (the checkpoint's) or a side that the network can see.
void check_img_size(int64_t size);

/// Declares --tta, whose value TestTimeAugmentation::parse() reads.
void add_tta(CLI::App& command, std::string& text);

}  // namespace camo::app
