#include "core/error.h"

#include <charconv>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace camo::detail {

namespace {

template <class T>
void append_number(std::string& out, T value) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out.append(digits, end);
}

}  // namespace

void append(std::string& out, std::string_view text) { out += text; }
void append(std::string& out, const char* text) { out += text; }
void append(std::string& out, bool value) { out += value ? "true" : "false"; }
void append(std::string& out, char value) { out += value; }
void append(std::string& out, int64_t value) { append_number(out, value); }
void append(std::string& out, uint64_t value) { append_number(out, value); }
void append(std::string& out, double value) { append_number(out, value); }

void append(std::string& out, const Shape& shape) {
  out += '[';
  for (int i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    append_number(out, shape[i]);
  }
  out += ']';
}

void append(std::string& out, const Device& device) { out += device.str(); }
void append(std::string& out, DType dtype) { out += name(dtype); }

void assertion_failed(const char* condition, const char* file, int line) {
  fail(ErrorCode::general, "internal error: ", condition, " does not hold at ", file, ":", line,
       "; this is a bug of camo, please report it");
}

}  // namespace camo::detail
