// JSON as text for files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace camo::app {

/// Bytes that are not UTF-8, as names of files may have, become U+FFFD. One line with an indent of -1.
inline std::string json_text(const nlohmann::json& value, int indent = -1) {
  return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace camo::app
