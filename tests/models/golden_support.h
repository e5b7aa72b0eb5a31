// Golden files: numbers recorded from the reference network, and models filled by the same formula.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "models/camoxpert/network.h"
#include "nn/module.h"

namespace camo::test {

/// The values of the tensor with this key: the formula by which the golden files' parameters are made.
Tensor golden_values(const std::string& key, const Shape& shape, const std::string& salt);
/// Sets every parameter and buffer from its key: u is the 24-bit fraction of splitmix64 seeded with fnv1a64(salt +
/// key). The three kernels of edge experts stay as they are.
void fill_by_key(Module& module, const std::string& salt);

/// A map of a golden file, [N, C, H, W] -> [N, H, W, C] of this dtype; other ranks are only converted.
Tensor from_golden(const Tensor& x, DType dtype);
/// The way back, to f64.
Tensor to_golden(const Tensor& x);

/// Norm, sum, and 8 elements at floor(i * n / 8) of a tensor in PyTorch's layout, [10] f64.
Tensor statistics(const Tensor& x);
/// The gradient in checkpoint layout, f64; zeros when there is none.
Tensor exported_gradient(const NamedTensor& parameter);

/// Every *.safetensors directly in this folder, sorted; empty when there is no such folder.
std::vector<std::filesystem::path> golden_files(const std::filesystem::path& folder);
/// A file name as the name of a test: letters, digits and underscores.
std::string test_name(const std::filesystem::path& file);

/// A list of strings in a metadata value.
std::vector<std::string> string_list(const SafeTensors& file, const std::string& key);
/// A number in the JSON object of a metadata value.
double json_number(const SafeTensors& file, const std::string& key, const std::string& field);
std::vector<std::string> json_fields(const SafeTensors& file, const std::string& key);

/// The network of a golden file, filled, without dropout, in this dtype.
std::unique_ptr<CamoXpert> golden_network(const SafeTensors& file, DType dtype);

}  // namespace camo::test
