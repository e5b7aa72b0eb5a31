// Errors: one exception type with a code and a context chain, and the checks that throw it.
//
// Messages follow `op or file: rule; got values; remedy`. User mistakes throw from CAMO_CHECK before anything is
// allocated or written; CAMO_ASSERT marks our own bugs.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace camo {

class Shape;
struct Device;
enum class DType : uint8_t;

/// What went wrong. Numbers up to 6 are the exit code of the program that ends on it.
enum class ErrorCode : int {
  general = 1,     // anything that has no code of its own; wrong arguments of a library call
  usage = 2,       // command line or configuration
  data = 3,        // data sets, pictures
  checkpoint = 4,  // checkpoints and file formats
  device = 5,      // no such device, or it fails
  not_finite = 6,  // NaN or infinity in training
  out_of_memory,   // of a device or the CPU; exit code 5
};
constexpr int exit_code_of(ErrorCode code) {
  return static_cast<int>(code == ErrorCode::out_of_memory ? ErrorCode::device : code);
}

/// The exception of this project. `what()` is the message followed by its context, innermost first.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }
  int exit_code() const { return exit_code_of(code_); }
  /// A copy of this error that also says what was being done, e.g. "while reading data/a.png".
  Error with_context(const std::string& context) const { return {code_, what() + ("\n  " + context)}; }

 private:
  ErrorCode code_;
};

namespace detail {

void append(std::string& out, std::string_view text);
void append(std::string& out, const char* text);
void append(std::string& out, bool value);
void append(std::string& out, char value);
void append(std::string& out, int64_t value);
void append(std::string& out, uint64_t value);
void append(std::string& out, double value);
void append(std::string& out, const Shape& shape);
void append(std::string& out, const Device& device);
void append(std::string& out, DType dtype);

template <class T>
void append_any(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, char>) append(out, value);
  else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) append(out, static_cast<int64_t>(value));
  else if constexpr (std::is_integral_v<T>) append(out, static_cast<uint64_t>(value));
  else if constexpr (std::is_floating_point_v<T>) append(out, static_cast<double>(value));
  else append(out, value);
}

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace detail

/// Text of all parts in a row: strings, numbers, shapes, dtypes, devices.
template <class... Parts>
std::string concat_text(const Parts&... parts) {
  std::string out;
  (detail::append_any(out, parts), ...);
  return out;
}

/// Throws Error(code) with the text of all parts.
template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, concat_text(parts...));
}

}  // namespace camo

// clang-format off
/// Throws camo::Error (general) with the text of the parts when the condition does not hold.
#define CAMO_CHECK(condition, ...) \
  do { if (!(condition)) [[unlikely]] ::camo::fail(::camo::ErrorCode::general, __VA_ARGS__); } while (false)
/// The same with an error code of its own.
#define CAMO_CHECK_CODE(code, condition, ...) \
  do { if (!(condition)) [[unlikely]] ::camo::fail(::camo::ErrorCode::code, __VA_ARGS__); } while (false)
/// An invariant of this library: a failure is our bug, not the caller's.
#define CAMO_ASSERT(condition) \
  do { if (!(condition)) [[unlikely]] ::camo::detail::assertion_failed(#condition, __FILE__, __LINE__); } while (false)
// clang-format on
