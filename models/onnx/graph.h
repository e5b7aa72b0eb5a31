// An ONNX graph under construction, and its file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "models/onnx/proto.h"

namespace camo::onnx {

inline constexpr int64_t kOpset = 18;

/// The name of a value in the graph.
using Value = std::string;
using Values = std::vector<Value>;
using Integers = std::vector<int64_t>;
using Attribute = std::variant<int64_t, float, std::string, Integers>;
using Attributes = std::vector<std::pair<std::string_view, Attribute>>;

class Graph {
 public:
  /// A node with one output, or with several.
  Value node(const char* op, const Values& inputs, const Attributes& attributes = {});
  Values nodes(const char* op, size_t outputs, const Values& inputs, const Attributes& attributes = {});
  /// A constant under this name; a second one of the same name is the first.
  Value constant(const std::string& name, const Tensor& tensor);
  Value scalar(float value);
  Value integers(const Integers& values);

  /// f32 maps [batch, dims...]; the batch is open.
  void input(const std::string& name, const Integers& dims);
  void output(const Value& value, const std::string& name, const Integers& dims);

  /// Writes the model. Atomic.
  void save(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const;

 private:
  ProtoMessage body_;  // nodes, inputs and outputs
  std::vector<std::pair<std::string, Tensor>> constants_;
  std::unordered_map<std::string, size_t> constant_of_name_;
  size_t values_ = 0;
};

}  // namespace camo::onnx
