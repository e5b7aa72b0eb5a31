// Just enough of the Protocol Buffers wire format to write a message: https://protobuf.dev/programming-guides/encoding
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace camo::onnx {

/// A message under construction: fields are appended under their numbers.
class ProtoMessage {
 public:
  ProtoMessage& integer(int field, int64_t value) {
    varint(static_cast<uint64_t>(field) << 3);
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  ProtoMessage& real(int field, float value) {
    varint(static_cast<uint64_t>(field) << 3 | 5);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  ProtoMessage& text(int field, std::string_view value) {
    begin_bytes(field, value.size());
    bytes_ += value;
    return *this;
  }
  ProtoMessage& message(int field, const ProtoMessage& value) { return text(field, value.bytes_); }
  /// Announces a field of this many bytes that are written by the caller.
  ProtoMessage& begin_bytes(int field, uint64_t bytes) {
    varint(static_cast<uint64_t>(field) << 3 | 2);
    varint(bytes);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace camo::onnx
