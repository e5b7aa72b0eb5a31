// Module: a tree of named parameters, buffers and children. The dotted path of a tensor is its checkpoint key.
//
//   // One gate per channel: y = x * sigmoid(W mean_hw(x) + b).    x, y: [N, H, W, C]
//   class ChannelGate : public Module {
//    public:
//     explicit ChannelGate(int64_t channels)
//         : mix_(child<Linear>("mix", LinearSpec{.in = channels, .out = channels})) {}
//     Tensor operator()(const Tensor& x) const {
//       Tensor gate = sigmoid(mix_(mean(x, {1, 2})));  // [N, C]
//       return x * unsqueeze(unsqueeze(gate, 1), 1);
//     }
//    private:
//     Linear& mix_;  // owned by Module
//   };
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd.h"
#include "core/tensor.h"

namespace camo {

/// How a parameter is stored in checkpoints.
enum class Layout {
  plain,        // as in memory
  conv_weight,  // in memory [O, KH, KW, I] (channels last), in files [O, I, KH, KW] (PyTorch)
};

/// A parameter or buffer with its dotted name.
struct NamedTensor {
  std::string name;
  Tensor tensor;
  Layout layout = Layout::plain;
  bool is_buffer = false;

  /// A contiguous copy in the layout of checkpoints, and the shape it has there.
  Tensor exported() const;
  Shape exported_shape() const;
  /// Copies values in checkpoint layout (any floating dtype) into the tensor. Another shape throws (code checkpoint).
  void import(const Tensor& values) const;
};

/// A state dict: names and tensors in checkpoint layout, in the order of registration.
using StateDict = std::vector<std::pair<std::string, Tensor>>;

/// What load_state_dict found to differ. Empty means everything fits.
struct StateMismatch {
  std::vector<std::string> missing;     // the module has it, the file does not
  std::vector<std::string> unexpected;  // the file has it, the module does not
  std::vector<std::string> mismatched;  // "name: module [..], file [..]"

  bool empty() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  std::string str() const;
};

class Module;

/// A class of modules, and what its constructor takes.
template <class M, class... Args>
concept ModuleFrom = std::derived_from<M, Module> && std::constructible_from<M, Args...>;

/// Base of all layers and models. Neither copied nor moved: references to children stay valid. A layer is called
/// through operator(), which is not virtual: each layer has the signature it needs.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters / buffers of this module and its children, in order of registration, parents before children as
  /// PyTorch lists them; a tensor with several names under its first one (a state dict has it under each).
  std::vector<NamedTensor> named_parameters() const;
  std::vector<NamedTensor> named_buffers() const;
  Tensors parameters() const;
  /// Sum of numel over the parameters; only those that require a gradient when `trainable_only`.
  int64_t parameter_count(bool trainable_only = false) const;

  /// Parameters and buffers in checkpoint layout, in PyTorch's order (of each module: parameters, buffers, children).
  StateDict state_dict() const;
  /// Copies values in. Compares everything first and throws ErrorCode::checkpoint listing missing, unexpected and
  /// mismatched names before anything is changed.
  void load_state_dict(const StateDict& state);
  StateMismatch compare_state_dict(const StateDict& state) const;

  /// Sets training / evaluation mode (batch norm, dropout) of the whole tree. New modules are in training mode.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  /// Whether the parameters of the tree get gradients.
  void freeze() { set_requires_grad(false); }
  void unfreeze() { set_requires_grad(true); }
  void set_requires_grad(bool value);
  /// Drops all gradients.
  void zero_grad();

  /// Moves parameters and floating buffers in place: handles to them stay valid; what changes loses its gradient.
  void to(Device device, DType dtype);
  void to(Device device);
  void to(DType dtype);

  /// Calls fn(dotted name, module) for this module ("") and all below it, parents first.
  void visit(const std::function<void(const std::string&, Module&)>& fn);

  /// Direct children, in order of registration.
  const std::vector<std::pair<std::string, std::shared_ptr<Module>>>& named_children() const { return children_; }

 protected:
  /// Registers a floating leaf as a parameter and returns it. Names contain no dots and are unique within a module.
  Tensor param(const std::string& name, Tensor value, Layout layout = Layout::plain);
  /// Registers a tensor, of any dtype, that is saved but not trained.
  Tensor buffer(const std::string& name, Tensor value, Layout layout = Layout::plain);
  /// Makes, registers and returns a child. A layer that is a plain member instead is not part of the tree: to(),
  /// train(), optimizers and files do not reach it.
  template <class M, class... Args>
  requires ModuleFrom<M, Args...> M& child(const std::string& name, Args&&... args) {
    auto module = std::make_shared<M>(std::forward<Args>(args)...);
    add_child(name, module);
    return *module;
  }
  /// Registers an existing module under a name.
  void add_child(const std::string& name, std::shared_ptr<Module> module);

 private:
  struct Slot {
    std::string name;
    Tensor tensor;
    Layout layout;
    bool is_buffer;
  };
  void check_name(const std::string& name) const;
  void collect(const std::string& prefix, std::vector<NamedTensor>& out) const;
  void collect_parameters(Tensors& out) const;

  std::vector<Slot> slots_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
  bool training_ = true;
};

/// A list of modules of one type under the names "0", "1", ...:
/// `ModuleList<Block>& blocks = child<ModuleList<Block>>("blocks")`.
template <class M>
class ModuleList : public Module {
 public:
  template <class... Args>
  M& append(Args&&... args) {
    M& module = child<M>(std::to_string(items_.size()), std::forward<Args>(args)...);
    items_.push_back(&module);
    return module;
  }
  size_t size() const { return items_.size(); }
  M& operator[](size_t i) const { return *items_[i]; }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

 private:
  std::vector<M*> items_;
};

}  // namespace camo
