// Event files of TensorBoard: scalars and pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace camo::app {

/// Writes one events.out.tfevents file. Records are length, masked CRC-32C of the length, payload, masked CRC-32C of
/// the payload; the payload is an Event message of TensorFlow's event.proto.
class TensorBoardWriter {
 public:
  /// Makes `folder` and a new file in it. Values that earlier files of the folder hold for steps from `first_step` on
  /// are taken as replaced. Throws ErrorCode::data when the file can't be made.
  TensorBoardWriter(const std::filesystem::path& folder, int64_t first_step);

  void scalar(std::string_view tag, int64_t step, double value);
  /// A picture that is encoded already (PNG).
  void image(std::string_view tag, int64_t step, std::string_view encoded, int width, int height);
  void flush() { file_.flush(); }

  const std::filesystem::path& path() const { return path_; }

 private:
  void event(int64_t step, std::string_view field);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace camo::app
