// Where a tensor lives.
#pragma once

#include <string>
#include <string_view>

namespace camo {

struct Device {
  enum class Kind : unsigned char { cpu, cuda };

  Kind kind = Kind::cpu;
  int index = 0;

  static Device cuda(int index = 0) { return {Kind::cuda, index}; }
  bool is_cpu() const { return kind == Kind::cpu; }
  bool is_cuda() const { return kind == Kind::cuda; }
  /// "cpu" or "cuda:N".
  std::string str() const;
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device cpu{};

/// Parses "cpu", "cuda", "cuda:N" or "auto" (a GPU where one can be used, else the CPU).
/// Throws ErrorCode::usage on other text and ErrorCode::device with the reason when the device can't be used.
Device parse_device(std::string_view text);

/// Empty when this build and machine can use CUDA devices; otherwise the reason why not.
std::string why_no_cuda();
/// CUDA devices that can be used: 0 without CUDA.
int cuda_device_count();

}  // namespace camo
