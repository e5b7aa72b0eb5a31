// What scripts/camoxpert_torch.py bench measured of the same network in PyTorch: a JSON object a line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace camo::app {

/// One configuration.
struct PeerLine {
  std::string peer;  // "torch 2.11"
  std::string device, backbone, dtype;
  int64_t batch = 0, size = 0, inputs = 1;  // inputs: batches in turn; with several the expert groups change
  double train_ms = 0, infer_ms = 0;
  double peak_gib = 0;  // of a training step; 0: not measured
};

class PeerFile {
 public:
  /// Knows nothing.
  PeerFile() = default;
  /// Throws ErrorCode::data on a file that can't be read or has no lines, and naming the line that can't be understood.
  explicit PeerFile(const std::string& path);

  struct Configuration {
    std::string device;  // "cpu" or "cuda"
    std::string backbone, dtype;
    int64_t batch = 0, size = 0;
  };
  /// The least of `value` in all lines of a configuration, so the peer at its best: eager or compiled, with its maps in
  /// either order. Nothing when there are no such lines. `groups_change`: only of lines with several inputs.
  std::optional<double> best(const Configuration& wanted, double PeerLine::*value, bool groups_change = false) const;

  const std::vector<PeerLine>& lines() const { return lines_; }

 private:
  std::vector<PeerLine> lines_;
};

}  // namespace camo::app
