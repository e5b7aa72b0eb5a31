// backward(): one walk over what core/node.cpp recorded.
#include "core/autograd.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <queue>
#include <unordered_map>

#include "core/additions.h"
#include "core/op_observer.h"
#include "core/open_sums.h"

namespace camo {
namespace {

/// Hooks of all leaves, by handle (in order of registration).
struct HookTable {
  std::mutex mutex;
  uint64_t next_handle = 1;
  struct Entry {
    std::weak_ptr<TensorImpl> leaf;
    GradientHook hook;
  };
  std::map<uint64_t, Entry> entries;
};
HookTable& hook_table() {
  static HookTable table;
  return table;
}

/// True when nobody else can see g's memory, so that it may be changed or kept.
bool sole_owner(const Tensor& g) { return g.impl_ptr().use_count() == 1 && g.storage().use_count() == 1; }

/// The life of a node's backward, for observers and profilers.
class BackwardScope {
 public:
  explicit BackwardScope(const Node& node) : node_(node), scope_(node.name().c_str()) {
    if (OpObserver* observer = op_observer()) observer->backward_begins(node_);
  }
  ~BackwardScope() {
    if (OpObserver* observer = op_observer()) observer->backward_ended(node_);
  }
  BackwardScope(const BackwardScope&) = delete;
  BackwardScope& operator=(const BackwardScope&) = delete;

 private:
  const Node& node_;
  OpScope scope_;
};

/// Laid out and aligned as a new tensor.
bool fills_from_start(const Tensor& g) { return g.is_contiguous() && g.offset() == 0; }

/// A gradient under summation.
struct RunningSum {
  Tensor value;

  void add(Tensor g) {
    if (!value.defined()) {
      value = std::move(g);
      return;
    }
    if (!sole_owner(value) || !value.is_contiguous()) value = clone(value);
    add_into(value, g);
  }
  /// Hands the sum out where it may be added to in place.
  Tensor take() {
    if (!value.defined() || !fills_from_start(value) || !sole_owner(value)) return {};
    return std::exchange(value, {});
  }
};

/// One walk over the graph below some outputs.
class BackwardPass {
 public:
  explicit BackwardPass(BackwardOptions options) : options_(options) {}

  void seed(const Tensor& output, Tensor gradient) {
    if (output.grad_node()) {
      discover(output.grad_node().get());
      keep_alive_.push_back(output.grad_node());
      tasks_[output.grad_node().get()].gradient(output.impl()->output_index).add(std::move(gradient));
    } else {
      ++leaf_uses_[output.impl()];
      seeded_leaves_.emplace_back(output, std::move(gradient));
    }
  }

  void run() {
    for (auto& [leaf, gradient] : seeded_leaves_) add_to_leaf(leaf, std::move(gradient));
    std::priority_queue<Node*, std::vector<Node*>, LaterFirst> ready;
    for (auto& [node, task] : tasks_) {
      if (task.consumers == 0) ready.push(node);
    }
    while (!ready.empty()) {
      Node* node = ready.top();
      ready.pop();
      Tensors gradients = run_node(node);
      for (size_t i = 0; i < gradients.size(); ++i) {
        const Edge& edge = node->edges()[i];
        if (edge.leaf.defined()) {
          add_to_leaf(edge.leaf, std::move(gradients[i]));
        } else if (edge.node) {
          Task& producer = tasks_[edge.node.get()];
          if (gradients[i].defined()) producer.gradient(edge.output_index).add(std::move(gradients[i]));
          if (--producer.consumers == 0) ready.push(edge.node.get());
        }
      }
    }
    leaf_additions_.finish();
  }

 private:
  struct Task {
    int consumers = 0;  // edges from nodes of this pass that have not run yet
    std::vector<RunningSum> sums;

    RunningSum& gradient(int output) {
      if (sums.size() <= static_cast<size_t>(output)) sums.resize(static_cast<size_t>(output) + 1);
      return sums[static_cast<size_t>(output)];
    }
  };
  /// Consumers have larger sequence numbers than producers: running the latest first is a topological order, and the
  /// same one in every run.
  struct LaterFirst {
    bool operator()(const Node* a, const Node* b) const { return a->sequence() < b->sequence(); }
  };

  /// Counts the consumers of all nodes below `root`, and the uses of all leaves.
  void discover(Node* root) {
    if (!tasks_.try_emplace(root).second) return;
    std::vector<Node*> stack{root};
    while (!stack.empty()) {
      Node* node = stack.back();
      stack.pop_back();
      for (const Edge& edge : node->edges()) {
        if (edge.leaf.defined()) ++leaf_uses_[edge.leaf.impl()];
        if (!edge.node) continue;
        const auto [found, inserted] = tasks_.try_emplace(edge.node.get());
        ++found->second.consumers;
        if (inserted) stack.push_back(edge.node.get());
      }
    }
  }

  /// The gradients of the node's inputs: all undefined when no gradient reached it.
  Tensors run_node(Node* node) {
    Task& task = tasks_[node];
    Tensors dy(static_cast<size_t>(node->output_count()));
    bool reached = false;
    for (size_t i = 0; i < task.sums.size(); ++i) {
      dy[i] = std::move(task.sums[i].value);
      reached |= dy[i].defined();
    }
    task.sums.clear();
    Tensors gradients(node->edges().size());
    if (reached) {
      const BackwardScope scope(*node);
      const Tensors sums = hand_out_sums(*node);
      Tensors left = sums;
      {
        const OpenSums open(*node, left);
        try {
          gradients = node->backward(dy);
        } catch (const Error& error) {
          throw error.with_context("in the backward of " + node->name());
        }
      }
      check_gradients(*node, gradients);
      take_back_sums(*node, sums, left, gradients);
      if (OpObserver* observer = op_observer()) observer->differentiated(*node, gradients);
    }
    if (!options_.retain_graph) node->free_saved();
    return gradients;
  }

  static void check_gradients(const Node& node, const Tensors& gradients) {
    const std::vector<Edge>& edges = node.edges();
    CAMO_CHECK(gradients.size() == edges.size(), "backward: ", node.name(),
               " must return one gradient for each input that record() got, ", edges.size(), " in all; got ",
               gradients.size());
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Tensor& gradient = gradients[i];
      if (!gradient.defined() || !node.needs(static_cast<int>(i))) continue;
      CAMO_CHECK(gradient.shape() == edges[i].shape && gradient.dtype() == edges[i].dtype, "backward: ", node.name(),
                 " must return a gradient with the shape and dtype of input ", i, ", ", edges[i].dtype, " ",
                 edges[i].shape, "; got ", gradient.dtype(), " ", gradient.shape());
    }
  }

  /// The sums of the gradients of the node's inputs: of a tensor that is several of its inputs, for the first of them.
  Tensors hand_out_sums(const Node& node) {
    const std::vector<Edge>& edges = node.edges();
    Tensors sums(edges.size());
    for (size_t i = 0; i < edges.size(); ++i) {
      const Edge& edge = edges[i];
      if (edge.node) {
        sums[i] = tasks_[edge.node.get()].gradient(edge.output_index).take();
      } else if (edge.leaf.defined() && edge.leaf.grad().defined() && fills_from_start(edge.leaf.grad())) {
        const auto is_same = [&](const Edge& other) { return other.leaf.same_as(edge.leaf); };
        if (std::none_of(edges.begin(), edges.begin() + static_cast<std::ptrdiff_t>(i), is_same)) {
          sums[i] = edge.leaf.grad();
        }
      }
    }
    return sums;
  }
  /// `left`: those that the node did not take.
  void take_back_sums(const Node& node, const Tensors& sums, const Tensors& left, Tensors& gradients) {
    for (size_t i = 0; i < sums.size(); ++i) {
      if (!sums[i].defined()) continue;
      if (left[i].defined()) {
        const Edge& edge = node.edges()[i];
        if (edge.node) tasks_[edge.node.get()].gradient(edge.output_index).value = sums[i];
      } else {
        CAMO_ASSERT(gradients[i].defined() && gradients[i].storage() == sums[i].storage());
        gradients[i] = sums[i];
        sums[i].storage()->bump_version();
      }
    }
  }

  void add_to_leaf(const Tensor& leaf, Tensor g) {
    if (g.defined() && !g.same_as(leaf.grad())) {
      CAMO_CHECK(g.shape() == leaf.shape() && g.dtype() == leaf.dtype(), "backward: a leaf that was ", g.dtype(), " ",
                 g.shape(), " in the forward is ", leaf.dtype(), " ", leaf.shape(),
                 " now; convert modules before the forward or after the backward");
      if (leaf.grad().defined()) {
        leaf_additions_.add(leaf.grad(), std::move(g));
      } else {
        leaf.set_grad(sole_owner(g) && g.is_contiguous() ? std::move(g) : clone(g));
      }
    }
    if (--leaf_uses_[leaf.impl()] == 0 && leaf.grad().defined()) run_hooks(leaf);
  }

  void run_hooks(const Tensor& leaf) {
    HookTable& table = hook_table();
    std::vector<GradientHook> hooks;
    {
      std::lock_guard lock(table.mutex);
      for (const auto& [handle, entry] : table.entries) {
        if (entry.leaf.lock() == leaf.impl_ptr()) hooks.push_back(entry.hook);
      }
    }
    if (!hooks.empty()) leaf_additions_.finish();
    for (const GradientHook& hook : hooks) hook(leaf);
  }

  BackwardOptions options_;
  std::unordered_map<Node*, Task> tasks_;
  std::unordered_map<TensorImpl*, int> leaf_uses_;
  std::vector<std::pair<Tensor, Tensor>> seeded_leaves_;
  Additions leaf_additions_;  // those of parameters are many and small
  std::vector<std::shared_ptr<Node>> keep_alive_;
};

}  // namespace

void backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients, BackwardOptions options) {
  CAMO_CHECK(outputs.size() == gradients.size(), "backward: needs one gradient per output; got ", outputs.size(),
             " outputs and ", gradients.size(), " gradients");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& output = outputs[i];
    const Tensor& gradient = gradients[i];
    CAMO_CHECK(output.requires_grad(),
               "backward: the output has no graph; no input of it requires a gradient, or it was "
               "computed inside NoGrad");
    if (gradient.defined()) {
      CAMO_CHECK(gradient.shape() == output.shape() && gradient.dtype() == output.dtype(),
                 "backward: the gradient must be ", output.dtype(), " ", output.shape(), " as the output is; got ",
                 gradient.dtype(), " ", gradient.shape());
      CAMO_CHECK(gradient.device() == output.device(), "backward: the gradient must be on ", output.device(),
                 " as the output is; got one on ", gradient.device(), "; copy it with to()");
    } else {
      CAMO_CHECK(output.numel() == 1, "backward: an output with ", output.numel(), " elements, shape ", output.shape(),
                 ", needs a gradient; only one with a single element has a default");
    }
  }
  const NoGrad no_grad;
  BackwardPass pass(options);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& output = outputs[i];
    pass.seed(output, gradients[i].defined() ? gradients[i] : full(output.shape(), 1, output.dtype(), output.device()));
  }
  pass.run();
}

void backward(const Tensor& output, const Tensor& gradient, BackwardOptions options) {
  backward(std::span<const Tensor>(&output, 1), std::span<const Tensor>(&gradient, 1), options);
}

// --- hooks ---

uint64_t add_gradient_hook(const Tensor& leaf, GradientHook hook) {
  CAMO_CHECK(leaf.is_leaf() && leaf.requires_grad(), "add_gradient_hook: needs a leaf that requires a gradient");
  HookTable& table = hook_table();
  std::lock_guard lock(table.mutex);
  table.entries[table.next_handle] = {leaf.impl_ptr(), std::move(hook)};
  return table.next_handle++;
}

void remove_gradient_hook(uint64_t handle) {
  HookTable& table = hook_table();
  std::lock_guard lock(table.mutex);
  table.entries.erase(handle);
}

}  // namespace camo
