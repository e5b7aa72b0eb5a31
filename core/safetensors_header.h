// The JSON header of a safetensors file: what is in it, and its strict parser.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace camo {
struct SafeTensors;
}

namespace camo::detail {

struct SafeTensorsEntry {
  std::string name;
  DType dtype = f32;
  Shape shape;
  uint64_t begin = 0;  // bytes, from the start of the data
  uint64_t end = 0;
};

struct SafeTensorsHeader {
  std::vector<SafeTensorsEntry> entries;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

/// Throws ErrorCode::checkpoint naming `file` unless the entries are well formed and cover [0, data_bytes) without gaps
/// or overlaps.
SafeTensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes, const std::string& file);

/// The JSON text of a header.
std::string write_safetensors_header(const SafeTensorsHeader& header);

/// All that stands in front of the data of a file: the length of the header, and the header.
std::string safetensors_head(const SafeTensors& content);

}  // namespace camo::detail
