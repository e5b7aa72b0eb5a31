// Reverse-mode automatic differentiation on an eager tape.
//
// Every differentiable operation makes a Node that keeps what its gradient needs in named `Saved` fields. A Node is
// declared in the same file as the forward it belongs to:
//
//   struct SigmoidNode final : Node {                        // dx = dy * y * (1 - y)
//     SigmoidNode() : Node("sigmoid") {}
//     Saved y{this, "y"};
//     Tensors backward(const Tensors& dy) override { ... }
//   };
//
//   Tensor sigmoid(const Tensor& x) {
//     Tensor y = ...;
//     if (auto* node = record<SigmoidNode>(y, {x})) node->y = y;
//     return y;
//   }
//
// backward() walks the tape iteratively, adds gradients in place, and frees saved tensors as it goes. Gradients of
// gradients are not supported: a backward runs outside of any graph.
#pragma once

#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace camo {

class Node;

/// A tensor kept for backward: outside of the graph, named, and checked to be unchanged when it is used.
class Saved {
 public:
  Saved(Node* node, const char* name);
  Saved(const Saved&) = delete;
  Saved& operator=(const Saved&) = delete;
  Saved& operator=(const Tensor& x);

  bool defined() const { return tensor_.defined(); }
  /// Throws when the tensor was changed in place since, or freed by an earlier backward.
  const Tensor& get() const;
  const Tensor& operator*() const { return get(); }
  const Tensor* operator->() const { return &get(); }

 private:
  friend class Node;
  Node* node_;
  const char* name_;
  Tensor tensor_;
  uint64_t version_ = 0;
  bool freed_ = false;
};

/// Where an input's gradient goes: to the Node that made it, or into a leaf.
struct Edge {
  std::shared_ptr<Node> node;  // null for leaves
  int output_index = 0;        // which output of `node`
  Tensor leaf;                 // undefined unless the input is a leaf that wants a gradient
  Shape shape = {};            // of the input, and so of its gradient
  DType dtype = f32;
};

class Node : public std::enable_shared_from_this<Node> {
 public:
  explicit Node(const char* name);
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  /// Gradients of the inputs, in the order given to record(), from the gradients of the outputs.
  /// dy[i] is undefined when nothing depended on output i (nodes with one output always get it). An undefined result
  /// means no gradient; results of inputs with !needs(i) are ignored, so they need not be computed. A result has its
  /// input's shape and dtype, else backward() throws. It may be dy[i] itself, which must not be changed in place.
  virtual Tensors backward(const Tensors& dy) = 0;

  const std::string& name() const { return name_; }
  /// Whether anything wants the gradient of input i.
  bool needs(int i) const;
  const std::vector<Edge>& edges() const { return edges_; }
  int output_count() const { return output_count_; }
  /// Grows with creation: consumers have larger numbers than producers.
  uint64_t sequence() const { return sequence_; }
  void free_saved();

 private:
  friend class Saved;
  friend void connect(const std::shared_ptr<Node>&, std::span<const Tensor> outputs, std::span<const Tensor> inputs);
  std::string name_;
  std::vector<Edge> edges_;
  std::vector<Saved*> saved_;
  int output_count_ = 0;
  uint64_t sequence_ = 0;
};

/// Whether operations are recorded on this thread (true unless inside NoGrad).
bool grad_enabled();

/// Operations inside its scope are not recorded.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};

/// Records inside its scope again, also within NoGrad.
class EnableGrad {
 public:
  EnableGrad();
  ~EnableGrad();
  EnableGrad(const EnableGrad&) = delete;
  EnableGrad& operator=(const EnableGrad&) = delete;

 private:
  bool previous_;
};

/// True when recording is on and one of the inputs requires a gradient.
bool grad_wanted(std::span<const Tensor> inputs);
inline bool grad_wanted(std::initializer_list<Tensor> inputs) {
  return grad_wanted(std::span<const Tensor>(inputs.begin(), inputs.size()));
}

/// Ties the outputs to `node` and the node to its inputs. record() is the way to call it.
void connect(const std::shared_ptr<Node>& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs);

/// A class of nodes, and what its constructor takes.
template <class N, class... Args>
concept NodeFrom = std::derived_from<N, Node> && std::constructible_from<N, Args...>;

/// Makes `outputs` the results of a new node N(args...) on `inputs` (may be undefined) and returns it, so that the
/// caller fills its fields; null when no gradient is wanted. Throws when an output is no new tensor: an input, say.
template <class N, class... Args>
requires NodeFrom<N, Args...> N* record(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                                        Args&&... args) {
  if (!grad_wanted(inputs)) return nullptr;
  auto node = std::make_shared<N>(std::forward<Args>(args)...);
  connect(node, outputs, inputs);
  return node.get();
}
template <class N, class... Args>
requires NodeFrom<N, Args...> N* record(const Tensor& output, std::initializer_list<Tensor> inputs, Args&&... args) {
  return record<N>(std::span<const Tensor>(&output, 1), std::span<const Tensor>(inputs.begin(), inputs.size()),
                   std::forward<Args>(args)...);
}
template <class N, class... Args>
requires NodeFrom<N, Args...> N* record(const Tensor& output, const Tensors& inputs, Args&&... args) {
  return record<N>(std::span<const Tensor>(&output, 1), std::span<const Tensor>(inputs), std::forward<Args>(args)...);
}

/// For operations without a gradient: throws when one is wanted, so that a graph is never cut silently.
void require_no_gradient(const char* op, std::initializer_list<Tensor> inputs);

struct BackwardOptions {
  bool retain_graph = false;  // keep saved tensors, to run backward again
};

/// Adds d(output)/d(leaf), weighted by `gradient` (default: ones, for outputs with one element), to grad() of every
/// leaf below `output`. Throws when the output has no graph, or on a gradient of another shape or dtype.
void backward(const Tensor& output, const Tensor& gradient = {}, BackwardOptions options = {});
/// The same for several outputs at once, with one gradient for each; undefined ones stand for ones.
void backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients, BackwardOptions options = {});

/// Called with a leaf each time a backward() has added its last contribution to the leaf's gradient.
using GradientHook = std::function<void(const Tensor& leaf)>;
/// Registers a hook for a leaf that requires a gradient (else throws); returns a handle for remove_gradient_hook.
uint64_t add_gradient_hook(const Tensor& leaf, GradientHook hook);
void remove_gradient_hook(uint64_t handle);

/// Runs fn(inputs) without keeping its intermediate tensors, and again during backward to get them back: less memory
/// for more time (arXiv:1604.06174). Random draws are the same in both runs. fn may use parameters besides its inputs;
/// they get their gradients.
Tensor checkpoint(const std::function<Tensor(const Tensors&)>& fn, const Tensors& inputs);
/// True inside the second run of a checkpoint(): state that counts calls (batch-norm statistics) must not change again.
bool is_recomputing();

}  // namespace camo
