#include "models/onnx/graph.h"

#include <bit>

#include "core/atomic_file.h"
#include "core/error.h"

namespace camo::onnx {
namespace {

// Field numbers of onnx.proto (IR version 8, the one of opset 18).
constexpr int64_t kIrVersion = 8;
namespace model {
enum { ir_version = 1, producer_name = 2, graph = 7, opset_import = 8, metadata_props = 14 };
}
namespace graph {
enum { node = 1, name = 2, initializer = 5, input = 11, output = 12 };
}
namespace node_field {
enum { input = 1, output = 2, name = 3, op_type = 4, attribute = 5 };
}
namespace attribute {
enum { name = 1, f = 2, i = 3, s = 4, ints = 8, type = 20 };
enum { type_float = 1, type_int = 2, type_string = 3, type_ints = 7 };
}  // namespace attribute
namespace tensor_field {
enum { dims = 1, data_type = 2, name = 8, raw_data = 9 };
enum { type_float = 1, type_int64 = 7 };
}  // namespace tensor_field

ProtoMessage make_attribute(std::string_view name, const Attribute& value) {
  ProtoMessage message;
  message.text(attribute::name, name);
  if (const auto* whole = std::get_if<int64_t>(&value)) {
    message.integer(attribute::i, *whole).integer(attribute::type, attribute::type_int);
  } else if (const auto* real = std::get_if<float>(&value)) {
    message.real(attribute::f, *real).integer(attribute::type, attribute::type_float);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    message.text(attribute::s, *text).integer(attribute::type, attribute::type_string);
  } else {
    for (const int64_t item : std::get<Integers>(value)) message.integer(attribute::ints, item);
    message.integer(attribute::type, attribute::type_ints);
  }
  return message;
}

/// ValueInfoProto of an f32 tensor whose first extent is open.
ProtoMessage value_info(const std::string& name, const Integers& dims) {
  ProtoMessage shape;
  shape.message(1, ProtoMessage().text(2, "batch"));
  for (const int64_t dim : dims) shape.message(1, ProtoMessage().integer(1, dim));
  ProtoMessage tensor;
  tensor.integer(1, tensor_field::type_float).message(2, shape);
  return ProtoMessage().text(1, name).message(2, ProtoMessage().message(1, tensor));
}

uint64_t bytes_of(const Tensor& tensor) {
  return static_cast<uint64_t>(tensor.numel() * size_in_bytes(tensor.dtype()));
}

/// TensorProto up to its data.
ProtoMessage tensor_head(const std::string& name, const Tensor& tensor) {
  ProtoMessage message;
  for (const int64_t dim : tensor.shape()) message.integer(tensor_field::dims, dim);
  message.integer(tensor_field::data_type, tensor.dtype() == i64 ? tensor_field::type_int64 : tensor_field::type_float);
  message.text(tensor_field::name, name);
  message.begin_bytes(tensor_field::raw_data, bytes_of(tensor));
  return message;
}

}  // namespace

Values Graph::nodes(const char* op, size_t outputs, const Values& inputs, const Attributes& attributes) {
  const std::string name = concat_text(op, "_", values_++);
  ProtoMessage message;
  for (const Value& input : inputs) message.text(node_field::input, input);
  Values results;
  for (size_t i = 0; i < outputs; ++i) results.push_back(i == 0 ? name : concat_text(name, "_", i));
  for (const Value& result : results) message.text(node_field::output, result);
  message.text(node_field::name, name).text(node_field::op_type, op);
  for (const auto& [key, value] : attributes) message.message(node_field::attribute, make_attribute(key, value));
  body_.message(graph::node, message);
  return results;
}

Value Graph::node(const char* op, const Values& inputs, const Attributes& attributes) {
  return nodes(op, 1, inputs, attributes).front();
}

Value Graph::constant(const std::string& name, const Tensor& tensor) {
  CAMO_ASSERT(tensor.is_contiguous() && tensor.device().is_cpu() && (tensor.dtype() == f32 || tensor.dtype() == i64));
  if (constant_of_name_.emplace(name, constants_.size()).second) constants_.emplace_back(name, tensor);
  return name;
}

Value Graph::scalar(float value) {
  return constant(concat_text("scalar_", uint64_t{std::bit_cast<uint32_t>(value)}),
                  from_vector<float>({value}, {}, cpu));
}

Value Graph::integers(const Integers& values) {
  std::string name = "integers";
  for (const int64_t value : values) name += concat_text("_", value);
  return constant(name, from_vector<int64_t>(values, {static_cast<int64_t>(values.size())}, cpu));
}

void Graph::input(const std::string& name, const Integers& dims) {
  body_.message(graph::input, value_info(name, dims));
}

void Graph::output(const Value& value, const std::string& name, const Integers& dims) {
  ProtoMessage message;
  message.text(node_field::input, value).text(node_field::output, name);
  message.text(node_field::name, name).text(node_field::op_type, "Identity");
  body_.message(graph::node, message);
  body_.message(graph::output, value_info(name, dims));
}

void Graph::save(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const {
  ProtoMessage head;
  head.integer(model::ir_version, kIrVersion).text(model::producer_name, "camoxpert");
  head.message(model::opset_import, ProtoMessage().text(1, "").integer(2, kOpset));
  for (const auto& [key, value] : metadata) {
    head.message(model::metadata_props, ProtoMessage().text(1, key).text(2, value));
  }
  // Weights are written from their tensors: the graph's length is known before.
  ProtoMessage named;
  named.text(graph::name, "camoxpert");
  std::vector<std::pair<std::string, const Tensor*>> pieces;
  uint64_t bytes = named.bytes().size() + body_.bytes().size();
  for (const auto& [name, tensor] : constants_) {
    const ProtoMessage message = tensor_head(name, tensor);
    ProtoMessage announced;
    announced.begin_bytes(graph::initializer, message.bytes().size() + bytes_of(tensor));
    pieces.emplace_back(announced.bytes() + message.bytes(), &tensor);
    bytes += pieces.back().first.size() + bytes_of(tensor);
  }
  constexpr uint64_t kLargest = uint64_t{1} << 31;  // of a protocol buffer
  CAMO_CHECK_CODE(checkpoint, bytes < kLargest, path.string(), ": an ONNX file must be below 2 GB; got ", bytes,
                  " bytes");
  head.begin_bytes(model::graph, bytes);

  AtomicFile file(path);
  const auto write = [&](const std::string& text) { file.write(text.data(), text.size()); };
  write(head.bytes());
  write(named.bytes());
  write(body_.bytes());
  for (const auto& [message, tensor] : pieces) {
    write(message);
    file.write(tensor->raw_data(), bytes_of(*tensor));
  }
  file.commit();
}

}  // namespace camo::onnx
