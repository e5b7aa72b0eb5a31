// Checksums in the metadata of a safetensors file.
#pragma once

#include <filesystem>

#include "core/safetensors.h"
#include "core/tensor_file.h"

namespace camo {

/// Adds to the metadata one CRC-32C per tensor (of its name, dtype, shape and bytes) and one of the other metadata.
/// Tensors must be contiguous and on the CPU.
void add_checksums(SafeTensors& file);

/// Compares a file with the checksums in it. Throws ErrorCode::checkpoint naming the first tensor that differs. False
/// when the file has no checksums.
bool verify_checksums(const SafeTensors& file, const std::filesystem::path& path);
/// The same, reading a few tensors at a time.
bool verify_checksums(const TensorFile& file);

}  // namespace camo
