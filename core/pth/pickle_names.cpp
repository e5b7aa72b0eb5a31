// What a pickle may name: storages, tensors, and a few containers.
#include <algorithm>
#include <array>
#include <limits>

#include "core/pth/pickle_machine.h"

namespace camo::detail {
namespace {

constexpr std::array<PickledType, 10> kTypes{{{"torch.FloatStorage", "f32", f32, 4},
                                              {"torch.DoubleStorage", "f64", f64, 8},
                                              {"torch.HalfStorage", "f16", f16, 2},
                                              {"torch.BFloat16Storage", "bf16", bf16, 2},
                                              {"torch.LongStorage", "i64", i64, 8},
                                              {"torch.IntStorage", "i32", i64, 4},
                                              {"torch.ShortStorage", "i16", i64, 2},
                                              {"torch.CharStorage", "i8", i64, 1},
                                              {"torch.ByteStorage", "u8", u8, 1},
                                              {"torch.BoolStorage", "bool", boolean, 1}}};

/// What can be called. Storages follow in the numbering, then data types, which are values only.
enum Global : uint64_t { ordered_dict, rebuild_tensor, rebuild_parameter, size, device, encode, arguments, first_type };
constexpr std::array<std::string_view, first_type> kGlobals{
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "argparse.Namespace"};  // training scripts keep their flags in one; here a dict of its attributes
constexpr std::array<std::string_view, 10> kDTypes{"torch.float32", "torch.float64", "torch.float16", "torch.bfloat16",
                                                   "torch.int64",   "torch.int32",   "torch.int16",   "torch.int8",
                                                   "torch.uint8",   "torch.bool"};
constexpr uint64_t kFirstDType = first_type + kTypes.size();

constexpr uint64_t kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

template <class Range, class Projection = std::identity>
uint64_t position_of(const Range& range, const std::string& name, Projection projection = {}) {
  return static_cast<uint64_t>(std::ranges::find(range, name, projection) - range.begin());
}

}  // namespace

void PickleMachine::push_global(const std::string& name) {
  uint64_t index = position_of(kGlobals, name);
  if (index == kGlobals.size()) index = first_type + position_of(kTypes, name, &PickledType::storage);
  if (index == kFirstDType) {
    if (position_of(kDTypes, name) == kDTypes.size()) {
      refuse("only what state dicts need can be read; refused the global '", name,
             "'; save the state dict alone, with torch.save(model.state_dict(), ...)");
    }
    push(PickleKind::other);
    return;
  }
  push(PickleKind::global, index);
}

void PickleMachine::push_stack_global() {
  const PickleValue name = pop(), module = pop();
  if (module.kind != PickleKind::text || name.kind != PickleKind::text) refuse("a global is named by two texts");
  push_global(concat_text(tree_.text(module), ".", tree_.text(name)));
}

uint64_t PickleMachine::whole(const PickleValue& value, const char* what) const {
  if (value.kind != PickleKind::integer || value.integer() < 0) {
    refuse(what, " must be a whole number of 0 or more; got ",
           value.kind == PickleKind::integer ? concat_text(value.integer()) : "something else");
  }
  return value.data;
}

/// A persistent id is ("storage", type, key, device, number of elements).
void PickleMachine::push_storage() {
  const PickleValue id = pop();
  const auto parts = id.kind == PickleKind::tuple ? tree_.items(id) : std::span<const PickleValue>{};
  if (parts.size() != 5 || parts[0].kind != PickleKind::text || tree_.text(parts[0]) != "storage" ||
      parts[1].kind != PickleKind::global || parts[1].data < first_type || parts[2].kind != PickleKind::text) {
    refuse("a persistent id must be ('storage', type, key, device, elements)");
  }
  PickledStorage storage{.key = tree_.text(parts[2]),
                         .type = &kTypes[parts[1].data - first_type],
                         .elements = whole(parts[4], "the number of elements"),
                         .offset = instruction_};
  if (storage.elements > kLargest / storage.type->bytes) {
    refuse("the size of storage '", storage.key, "' overflows 64 bits; got ", storage.elements, " elements");
  }
  const auto [found, is_new] = storage_of_key_.emplace(storage.key, tree_.storages_.size());
  if (is_new) {
    charge(2 * sizeof storage + 64);
    tree_.storages_.push_back(storage);
  } else {
    const PickledStorage& known = tree_.storages_[found->second];
    if (known.type != storage.type || known.elements != storage.elements) {
      refuse("storage '", storage.key, "' must have one type and size; got ", storage.type->name, " x ",
             storage.elements, " after ", known.type->name, " x ", known.elements);
    }
  }
  push(PickleKind::storage, found->second);
}

std::vector<PickleValue> PickleMachine::pop_arguments() {
  const PickleValue tuple = pop();
  if (tuple.kind != PickleKind::tuple) refuse("a call needs a tuple of arguments");
  const auto items = tree_.items(tuple);
  constexpr size_t kMostArguments = 16;
  if (items.size() > kMostArguments) refuse("a call takes at most ", kMostArguments, " arguments; got ", items.size());
  return {items.begin(), items.end()};
}

void PickleMachine::reduce() {
  const std::vector<PickleValue> arguments = pop_arguments();
  const PickleValue callee = pop();
  if (callee.kind != PickleKind::global) refuse("only a global can be called");
  const auto check = [&](bool ok) {
    if (!ok) refuse("the arguments do not fit ", callee.data < first_type ? kGlobals[callee.data] : "a storage type");
  };
  const auto has = [&](size_t i, PickleKind kind) { return i < arguments.size() && arguments[i].kind == kind; };
  switch (callee.data) {
    case ordered_dict:
      check(arguments.empty());
      push_container(PickleKind::dict, {});
      break;
    case rebuild_tensor: push_tensor(arguments); break;
    case rebuild_parameter:  // (tensor, requires_grad, hooks)
      check(arguments.size() == 3 && has(0, PickleKind::tensor));
      push(arguments[0]);
      break;
    case Global::size:
      check(arguments.size() == 1 && has(0, PickleKind::tuple));
      push(arguments[0]);
      break;
    case device:  // ("cuda", 0)
      check(has(0, PickleKind::text));
      push(arguments[0]);
      break;
    case encode:  // bytes in protocol 2
      check(arguments.size() == 2 && has(0, PickleKind::text));
      push(PickleKind::other);
      break;
    default: check(false);
  }
}

/// Arguments: storage, first element, shape, strides, requires_grad, hooks, and perhaps metadata.
void PickleMachine::push_tensor(const std::vector<PickleValue>& arguments) {
  if (arguments.size() < 4 || arguments[0].kind != PickleKind::storage || arguments[2].kind != PickleKind::tuple ||
      arguments[3].kind != PickleKind::tuple) {
    refuse("a tensor is made from a storage, its first element, shape and strides");
  }
  PickledTensor tensor{.storage = arguments[0].data,
                       .begin = whole(arguments[1], "the first element"),
                       .span = 0,
                       .shape = {},
                       .strides = {}};
  const PickledStorage& storage = tree_.storages_[tensor.storage];
  const auto extents = tree_.items(arguments[2]), strides = tree_.items(arguments[3]);
  if (extents.size() != strides.size() || extents.size() > Shape::kMaxDims) {
    refuse("a tensor has at most ", int{Shape::kMaxDims}, " dimensions and as many strides; got ", extents.size(),
           " and ", strides.size());
  }
  uint64_t elements = 1, last = 0;  // elements: with extents of 0 taken for 1; last: offset of the last from the first
  bool overflow = false, is_empty = false;
  for (size_t i = 0; i < extents.size(); ++i) {
    const uint64_t extent = whole(extents[i], "an extent"), stride = whole(strides[i], "a stride");
    uint64_t reach = 0;
    is_empty |= extent == 0;
    overflow |= __builtin_mul_overflow(elements, std::max<uint64_t>(extent, 1), &elements) || elements > kLargest / 8;
    if (extent > 1) {
      overflow |= __builtin_mul_overflow(extent - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last) ||
                  last > kLargest / 8;
    }
    tensor.shape.push_back(static_cast<int64_t>(extent));
    tensor.strides.push_back(static_cast<int64_t>(stride));
  }
  if (overflow) refuse("the size of a tensor overflows 64 bits; got ", tensor.shape, ", strides ", tensor.strides);
  if (!is_empty) {
    if (tensor.begin >= storage.elements || last >= storage.elements - tensor.begin) {
      refuse("a tensor must lie within its storage '", storage.key, "' of ", storage.elements, " elements; got ",
             tensor.shape, ", strides ", tensor.strides, ", first element ", tensor.begin);
    }
    tensor.span = last + 1;
  }
  charge(2 * sizeof tensor);
  push(PickleKind::tensor, tree_.tensors_.size());
  tree_.tensors_.push_back(tensor);
}

void PickleMachine::make_object() {
  const std::vector<PickleValue> given = pop_arguments();
  const PickleValue type = pop();
  if (type.kind != PickleKind::global || (type.data != arguments && type.data != ordered_dict) || !given.empty()) {
    refuse("only an empty argparse.Namespace or OrderedDict can be made this way");
  }
  push_container(PickleKind::dict, {});
}

/// Attributes of an object. Those of a Namespace are what it holds; an OrderedDict of a state dict has one, _metadata
/// with version numbers, which nothing here needs.
void PickleMachine::build() {
  const PickleValue state = pop();
  const PickleValue object = top(PickleKind::dict, "a dict");
  if (state.kind != PickleKind::dict) refuse("attributes must be a dict");
  const auto given = tree_.items(state);
  if (!tree_.items(object).empty() || state.data == object.data) return;
  extend(object, {given.begin(), given.end()});
}

}  // namespace camo::detail
