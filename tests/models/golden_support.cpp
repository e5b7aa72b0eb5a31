#include "tests/models/golden_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "ops/ops.h"

namespace camo::test {
namespace {

uint64_t fnv1a64(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

double fraction(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 40) * 0x1p-24;
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

nlohmann::json parsed(const SafeTensors& file, const std::string& key) {
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end()) fail(ErrorCode::checkpoint, "golden file: metadata ", key, " is missing");
  return nlohmann::json::parse(found->second);
}

}  // namespace

Tensor golden_values(const std::string& key, const Shape& shape, const std::string& salt) {
  const std::string kind = last_part(key);
  const int64_t count = shape.numel();
  const double fan_in = shape.empty() || count == 0 ? 1 : static_cast<double>(count / shape[0]);
  const uint64_t seed = fnv1a64(salt + key);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const double u = fraction(seed, static_cast<uint64_t>(i));
    double value = (2 * u - 1) * std::sqrt(3 / fan_in);
    if (kind == "running_var") value = 1 + 0.2 * u;
    else if (kind == "running_mean" || kind == "bias") value = 0.2 * u - 0.1;
    else if (shape.size() <= 1 || kind == "temperature") value = 0.9 + 0.2 * u;
    values.push_back(static_cast<float>(value));
  }
  return from_vector(values, shape);
}

void fill_by_key(Module& module, const std::string& salt) {
  std::vector<NamedTensor> tensors = module.named_parameters();
  for (const NamedTensor& buffer : module.named_buffers()) tensors.push_back(buffer);
  for (const NamedTensor& tensor : tensors) {
    const std::string kind = last_part(tensor.name);
    if (kind == "sobel_x" || kind == "sobel_y" || (kind == "laplacian" && tensor.is_buffer)) continue;
    if (kind == "num_batches_tracked") fill(tensor.tensor, 0);
    else tensor.import(golden_values(tensor.name, tensor.exported_shape(), salt));
  }
}

Tensor from_golden(const Tensor& x, DType dtype) {
  return to(clone(to(x.dims() == 4 ? permute(x, {0, 2, 3, 1}) : x, dtype)), default_device());
}

Tensor to_golden(const Tensor& x) {
  const Tensor plain = to(x.detach(), f64);
  return clone(plain.dims() == 4 ? permute(plain, {0, 3, 1, 2}) : plain);
}

Tensor statistics(const Tensor& x) {
  const std::vector<double> values = x.to_vector<double>();
  const size_t n = values.size();
  double squares = 0, total = 0;
  for (const double value : values) {
    squares += value * value;
    total += value;
  }
  std::vector<double> row{std::sqrt(squares), total};
  for (size_t i = 0; i < 8; ++i) row.push_back(values[i * n / 8]);
  return from_vector(row, {10});
}

Tensor exported_gradient(const NamedTensor& parameter) {
  const Tensor& gradient = parameter.tensor.grad();
  if (!gradient.defined()) return zeros(parameter.exported_shape(), f64);
  return to(NamedTensor{parameter.name, gradient, parameter.layout, false}.exported(), f64);
}

std::vector<std::filesystem::path> golden_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::is_directory(folder)) return files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string test_name(const std::filesystem::path& file) {
  std::string name = file.stem().string();
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

std::vector<std::string> string_list(const SafeTensors& file, const std::string& key) {
  return parsed(file, key).get<std::vector<std::string>>();
}

double json_number(const SafeTensors& file, const std::string& key, const std::string& field) {
  return parsed(file, key).at(field).get<double>();
}

std::vector<std::string> json_fields(const SafeTensors& file, const std::string& key) {
  std::vector<std::string> fields;
  const nlohmann::json object = parsed(file, key);
  for (const auto& item : object.items()) fields.push_back(item.key());
  return fields;
}

std::unique_ptr<CamoXpert> golden_network(const SafeTensors& file, DType dtype) {
  const auto& metadata = file.metadata;
  CamoXpertSpec spec{
      .backbone = metadata.at("backbone"), .num_experts = std::stoll(metadata.at("num_experts")), .dropout = 0};
  if (metadata.contains("attention_heads")) spec.attention_heads = std::stoll(metadata.at("attention_heads"));
  else if (metadata.contains("heads")) spec.attention_heads = std::stoll(metadata.at("heads"));
  else {
    const auto& dims = edgenext_spec(spec.backbone).dims;
    const bool eight_fits = std::all_of(dims.begin(), dims.end(), [](int64_t dim) { return dim % 8 == 0; });
    spec.attention_heads = eight_fits ? 8 : 4;
  }
  auto network = std::make_unique<CamoXpert>(spec);
  fill_by_key(*network, metadata.contains("salt") ? metadata.at("salt") : "");
  network->to(dtype);
  return network;
}

}  // namespace camo::test
