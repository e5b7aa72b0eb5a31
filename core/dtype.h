// Element types, and the one place that turns a DType into a C++ type.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/half.h"

namespace camo {

enum class DType : uint8_t { f32, f64, f16, bf16, i64, u8, boolean };

inline constexpr DType f32 = DType::f32;
inline constexpr DType f64 = DType::f64;
inline constexpr DType f16 = DType::f16;
inline constexpr DType bf16 = DType::bf16;
inline constexpr DType i64 = DType::i64;
inline constexpr DType u8 = DType::u8;
inline constexpr DType boolean = DType::boolean;

constexpr int64_t size_in_bytes(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    default: return 1;
  }
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16;
}

/// "f32", "bf16", "i64", "bool", ...
std::string_view name(DType dtype);

/// The DType of a C++ element type.
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::boolean;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<std::remove_const_t<T>>::value;

/// Calls `fn.template operator()<T>()` with T = float or double; other dtypes throw naming `op`.
template <class Fn>
decltype(auto) dispatch_floating(DType dtype, const char* op, Fn&& fn) {
  if (dtype == DType::f32) return std::forward<Fn>(fn).template operator()<float>();
  if (dtype == DType::f64) return std::forward<Fn>(fn).template operator()<double>();
  fail(ErrorCode::general, op, ": computes in f32 or f64 on the CPU; got ", dtype, "; convert with to(x, f32)");
}

/// Calls `fn.template operator()<T>()` with the C++ type of any dtype.
template <class Fn>
decltype(auto) dispatch_all(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f64: return std::forward<Fn>(fn).template operator()<double>();
    case DType::f16: return std::forward<Fn>(fn).template operator()<Half>();
    case DType::bf16: return std::forward<Fn>(fn).template operator()<BFloat16>();
    case DType::i64: return std::forward<Fn>(fn).template operator()<int64_t>();
    case DType::u8: return std::forward<Fn>(fn).template operator()<uint8_t>();
    case DType::boolean: return std::forward<Fn>(fn).template operator()<bool>();
    default: return std::forward<Fn>(fn).template operator()<float>();
  }
}

/// Number conversion between element types, also through the 16-bit floats. bool is (x != 0).
template <class To, class From>
CAMO_HOST_DEVICE To convert(From value) {
  constexpr bool from16 = std::is_same_v<From, Half> || std::is_same_v<From, BFloat16>;
  constexpr bool to16 = std::is_same_v<To, Half> || std::is_same_v<To, BFloat16>;
  if constexpr (std::is_same_v<To, From>) return value;
  else if constexpr (from16) return convert<To>(static_cast<float>(value));
  else if constexpr (to16) return To(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bool>) return value != From(0);
  else return static_cast<To>(value);
}

}  // namespace camo
