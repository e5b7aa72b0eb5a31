#include "apps/camoxpert/training/tensorboard.h"

#include <fmt/core.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>

#include "core/crc32c.h"
#include "core/error.h"

namespace camo::app {

namespace {

// Protocol buffers: a field is its number and wire type as a varint, then the value.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string key(uint32_t number, uint32_t wire_type) { return varint(number << 3 | wire_type); }
template <class T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string integer(uint32_t number, int64_t value) {
  return key(number, kVarint) + varint(static_cast<uint64_t>(value));
}
std::string bytes(uint32_t number, std::string_view value) {
  return key(number, kBytes) + varint(value.size()) + std::string(value);
}

/// TensorFlow stores checksums of checksummed data in this disguise.
std::string masked_checksum(std::string_view data) {
  const uint32_t crc = crc32c(data.data(), data.size());
  return little_endian((crc >> 15 | crc << 17) + 0xA282EAD8u);
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string host() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "host";
}

// Field numbers of event.proto and summary.proto.
constexpr uint32_t kEventWallTime = 1, kEventStep = 2, kEventVersion = 3, kEventSummary = 5, kEventSession = 7;
constexpr uint32_t kSummaryValue = 1, kValueTag = 1, kValueScalar = 2, kValueImage = 4;
constexpr uint32_t kImageHeight = 1, kImageWidth = 2, kImageColorspace = 3, kImageEncoded = 4;
constexpr uint32_t kSessionStatus = 1;
constexpr int64_t kSessionStart = 1, kRgb = 3;

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, int64_t first_step) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  // TensorBoard reads the files of a folder in the order of their names; two of one second must not be one file.
  const auto seconds = static_cast<int64_t>(now());
  for (int number = 0; path_.empty() || std::filesystem::exists(path_); ++number) {
    path_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", seconds, host(), getpid(), number);
  }
  file_.open(path_, std::ios::binary);
  CAMO_CHECK_CODE(data, file_.is_open(), path_.string(), ": can't be written; choose a folder you can write to");
  event(0, bytes(kEventVersion, "brain.Event:2"));
  if (first_step > 0) event(first_step, bytes(kEventSession, integer(kSessionStatus, kSessionStart)));
  file_.flush();
}

void TensorBoardWriter::event(int64_t step, std::string_view field) {
  const std::string payload =
      key(kEventWallTime, kFixed64) + little_endian(now()) + integer(kEventStep, step) + std::string(field);
  const std::string length = little_endian(uint64_t{payload.size()});
  file_ << length << masked_checksum(length) << payload << masked_checksum(payload);
}

void TensorBoardWriter::scalar(std::string_view tag, int64_t step, double value) {
  const std::string content =
      bytes(kValueTag, tag) + key(kValueScalar, kFixed32) + little_endian(static_cast<float>(value));
  event(step, bytes(kEventSummary, bytes(kSummaryValue, content)));
}

void TensorBoardWriter::image(std::string_view tag, int64_t step, std::string_view encoded, int width, int height) {
  const std::string picture = integer(kImageHeight, height) + integer(kImageWidth, width) +
                              integer(kImageColorspace, kRgb) + bytes(kImageEncoded, encoded);
  event(step, bytes(kEventSummary, bytes(kSummaryValue, bytes(kValueTag, tag) + bytes(kValueImage, picture))));
}

}  // namespace camo::app
