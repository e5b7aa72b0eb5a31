// What the targets of tensor files share.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor_file.h"

namespace camo::fuzz {

/// Reads every tensor of a file of either format, one at a time.
void read_all(const TensorFile& file);

std::string mutate_safetensors(const std::string& bytes, uint64_t seed);
std::string mutate_pth(const std::string& bytes, uint64_t seed);

}  // namespace camo::fuzz
