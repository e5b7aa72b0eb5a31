#include "nn/module.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "ops/elementwise.h"

namespace camo {
namespace {

/// The tensor as checkpoints see it: a view, so that copies go both ways.
Tensor file_view(const Tensor& x, Layout layout) {
  if (layout == Layout::plain) return x;
  const Shape &shape = x.shape(), &strides = x.strides();  // [O, KH, KW, I] -> [O, I, KH, KW]
  return make_view(x, {shape[0], shape[3], shape[1], shape[2]}, {strides[0], strides[3], strides[1], strides[2]},
                   x.offset());
}

bool is_integer(DType dtype) { return !is_floating(dtype); }

std::string describe_mismatch(const NamedTensor& own, const Tensor& values) {
  const Shape shape = own.exported_shape();
  if (!values.defined()) return concat_text(own.name, ": module ", shape, ", file: an undefined tensor");
  if (shape != values.shape()) return concat_text(own.name, ": module ", shape, ", file ", values.shape());
  if (is_integer(own.tensor.dtype()) != is_integer(values.dtype())) {
    return concat_text(own.name, ": module ", own.tensor.dtype(), ", file ", values.dtype());
  }
  return {};
}

void append_list(std::string& out, const char* title, const std::vector<std::string>& items) {
  constexpr size_t kShown = 20;
  if (items.empty()) return;
  if (!out.empty()) out += "\n";
  out += concat_text(title, " (", items.size(), "):");
  for (size_t i = 0; i < std::min(items.size(), kShown); ++i) out += "\n  " + items[i];
  if (items.size() > kShown) out += concat_text("\n  ... and ", items.size() - kShown, " more");
}

/// Tensors that are registered in several places count once: with a gradient scaled twice, or decayed twice, training
/// would go wrong silently.
class FirstTimes {
 public:
  explicit FirstTimes(size_t at_most) { seen_.reserve(at_most); }
  bool operator()(const Tensor& x) { return seen_.insert(x.impl()).second; }

 private:
  std::unordered_set<const TensorImpl*> seen_;
};

std::string describe(const Tensor& x) {
  if (!x.defined()) return "an undefined one";
  return concat_text(x.dtype(), " ", x.shape(), x.is_leaf() ? "" : ", a result of " + x.grad_node()->name());
}

/// Replaces what the handles of this tensor see. Whole numbers stay as they are, on the CPU.
void convert_in_place(const Tensor& x, Device device, DType dtype) {
  if (is_integer(x.dtype()) || (x.dtype() == dtype && x.device() == device)) return;
  const NoGrad no_grad;
  const Tensor converted = clone(camo::to(camo::to(x.detach(), dtype), device));
  TensorImpl& impl = *x.impl();
  impl.storage = converted.storage();
  impl.strides = converted.strides();
  impl.offset = converted.offset();
  impl.dtype = dtype;
  impl.grad = {};
}

}  // namespace

Tensor NamedTensor::exported() const { return clone(file_view(tensor, layout)); }

Shape NamedTensor::exported_shape() const { return file_view(tensor, layout).shape(); }

void NamedTensor::import(const Tensor& values) const {
  const std::string mismatch = describe_mismatch(*this, values);
  CAMO_CHECK_CODE(checkpoint, mismatch.empty(), "import: shapes and kinds of dtype must agree; got ", mismatch);
  copy_into(file_view(tensor, layout), values);
}

std::string StateMismatch::str() const {
  std::string out;
  append_list(out, "missing in the file", missing);
  append_list(out, "unexpected in the file", unexpected);
  append_list(out, "different", mismatched);
  return out;
}

Tensor Module::param(const std::string& name, Tensor value, Layout layout) {
  CAMO_CHECK(value.defined() && is_floating(value.dtype()) && value.is_leaf(), "module: parameter '", name,
             "' must be a floating tensor outside of any graph; got ", describe(value));
  Tensor registered = buffer(name, std::move(value), layout);
  registered.set_requires_grad(true);
  slots_.back().is_buffer = false;
  return registered;
}

Tensor Module::buffer(const std::string& name, Tensor value, Layout layout) {
  check_name(name);
  CAMO_CHECK(value.defined() && value.is_contiguous(), "module: tensor '", name, "' must be defined and contiguous");
  CAMO_CHECK(layout == Layout::plain || value.dims() == 4, "module: convolution weight '", name,
             "' must be [O, KH, KW, I]; got ", value.shape());
  slots_.push_back({name, value, layout, true});
  return value;
}

void Module::add_child(const std::string& name, std::shared_ptr<Module> module) {
  check_name(name);
  CAMO_CHECK(module != nullptr, "module: child '", name, "' is null");
  children_.emplace_back(name, std::move(module));
}

void Module::check_name(const std::string& name) const {
  CAMO_CHECK(!name.empty() && name.find('.') == std::string::npos,
             "module: names must not be empty nor contain dots, which separate levels; got '", name, "'");
  const bool taken =
      std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.name == name; }) ||
      std::any_of(children_.begin(), children_.end(), [&](const auto& entry) { return entry.first == name; });
  CAMO_CHECK(!taken, "module: names must be unique within a module; got '", name, "' twice");
}

void Module::collect(const std::string& prefix, std::vector<NamedTensor>& out) const {
  for (const bool buffers : {false, true}) {
    for (const Slot& slot : slots_) {
      if (slot.is_buffer == buffers) out.push_back({prefix + slot.name, slot.tensor, slot.layout, slot.is_buffer});
    }
  }
  for (const auto& [name, module] : children_) module->collect(prefix + name + ".", out);
}

std::vector<NamedTensor> Module::named_parameters() const {
  std::vector<NamedTensor> all;
  collect("", all);
  FirstTimes first(all.size());
  std::erase_if(all, [&](const NamedTensor& entry) { return entry.is_buffer || !first(entry.tensor); });
  return all;
}

std::vector<NamedTensor> Module::named_buffers() const {
  std::vector<NamedTensor> all;
  collect("", all);
  FirstTimes first(all.size());
  std::erase_if(all, [&](const NamedTensor& entry) { return !entry.is_buffer || !first(entry.tensor); });
  return all;
}

void Module::collect_parameters(Tensors& out) const {  // every step asks: without making names
  for (const Slot& slot : slots_) {
    if (!slot.is_buffer) out.push_back(slot.tensor);
  }
  for (const auto& [name, module] : children_) module->collect_parameters(out);
}

Tensors Module::parameters() const {
  Tensors all;
  collect_parameters(all);
  FirstTimes first(all.size());
  std::erase_if(all, [&](const Tensor& parameter) { return !first(parameter); });
  return all;
}

int64_t Module::parameter_count(bool trainable_only) const {
  int64_t count = 0;
  for (const Tensor& parameter : parameters()) {
    if (!trainable_only || parameter.requires_grad()) count += parameter.numel();
  }
  return count;
}

StateDict Module::state_dict() const {
  std::vector<NamedTensor> all;
  collect("", all);
  StateDict state;
  for (const NamedTensor& entry : all) state.emplace_back(entry.name, entry.exported());
  return state;
}

StateMismatch Module::compare_state_dict(const StateDict& state) const {
  std::vector<NamedTensor> all;
  collect("", all);
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, values] : state) {
    CAMO_CHECK_CODE(checkpoint, given.emplace(name, &values).second, "state dict: names must be unique; got '", name,
                    "' twice");
  }
  StateMismatch mismatch;
  std::unordered_set<std::string> own;
  for (const NamedTensor& entry : all) {
    own.insert(entry.name);
    const auto found = given.find(entry.name);
    if (found == given.end()) {
      mismatch.missing.push_back(entry.name);
    } else if (std::string difference = describe_mismatch(entry, *found->second); !difference.empty()) {
      mismatch.mismatched.push_back(std::move(difference));
    }
  }
  for (const auto& [name, values] : state) {
    if (!own.contains(name)) mismatch.unexpected.push_back(name);
  }
  return mismatch;
}

void Module::load_state_dict(const StateDict& state) {
  const StateMismatch mismatch = compare_state_dict(state);
  CAMO_CHECK_CODE(checkpoint, mismatch.empty(),
                  "load_state_dict: the tensors do not fit the module; nothing was loaded\n", mismatch.str());
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, values] : state) given.emplace(name, &values);
  std::vector<NamedTensor> all;
  collect("", all);
  for (const NamedTensor& entry : all) entry.import(*given.at(entry.name));
}

void Module::train(bool on) {
  training_ = on;
  for (const auto& [name, module] : children_) module->train(on);
}

void Module::set_requires_grad(bool value) {
  for (const Tensor& parameter : parameters()) parameter.set_requires_grad(value);
}

void Module::zero_grad() {
  Tensors all;
  collect_parameters(all);
  for (const Tensor& parameter : all) parameter.set_grad({});
}

void Module::to(Device device, DType dtype) {
  CAMO_CHECK(is_floating(dtype), "module: parameters are floating; got to(", dtype, ")");
  std::vector<NamedTensor> all;
  collect("", all);
  for (const NamedTensor& entry : all) convert_in_place(entry.tensor, device, dtype);
}

void Module::to(Device device) {
  std::vector<NamedTensor> all;
  collect("", all);
  for (const NamedTensor& entry : all) convert_in_place(entry.tensor, device, entry.tensor.dtype());
}

void Module::to(DType dtype) {
  CAMO_CHECK(is_floating(dtype), "module: parameters are floating; got to(", dtype, ")");
  std::vector<NamedTensor> all;
  collect("", all);
  for (const NamedTensor& entry : all) convert_in_place(entry.tensor, entry.tensor.device(), dtype);
}

void Module::visit(const std::function<void(const std::string&, Module&)>& fn) {
  std::vector<std::pair<std::string, Module*>> stack{{"", this}};
  while (!stack.empty()) {
    const auto [path, module] = stack.back();
    stack.pop_back();
    fn(path, *module);
    for (auto it = module->children_.rbegin(); it != module->children_.rend(); ++it) {
      stack.emplace_back(path.empty() ? it->first : path + "." + it->first, it->second.get());
    }
  }
}

}  // namespace camo
