// What is recorded: nodes, their saved tensors and edges (core/autograd.h).
#include <algorithm>
#include <atomic>

#include "core/autograd.h"
#include "core/op_observer.h"
#include "core/saved_tensors.h"

namespace camo {
namespace {

thread_local bool recording = true;
thread_local SavedTensors* saved_list = nullptr;
std::atomic<uint64_t> next_sequence{1};

}  // namespace

Saved::Saved(Node* node, const char* name) : node_(node), name_(name) { node->saved_.push_back(this); }

Saved& Saved::operator=(const Tensor& x) {
  freed_ = false;
  tensor_ = x.defined() ? x.detach() : Tensor();  // detached: an output saved by its own node must not own that node
  version_ = x.defined() ? x.version() : 0;
  if (saved_list != nullptr && x.defined()) saved_list->fields_.push_back({this, name_});
  return *this;
}

const Tensor& Saved::get() const {
  CAMO_CHECK(!freed_, "backward: '", name_, "' saved by ", node_->name(),
             " was freed by an earlier backward; pass retain_graph to run it twice");
  CAMO_CHECK(!tensor_.defined() || tensor_.version() == version_, "backward: '", name_, "' saved by ", node_->name(),
             " was changed in place after the forward; got version ", tensor_.defined() ? tensor_.version() : 0,
             ", expected ", version_, "; change a copy instead");
  return tensor_;
}

SavedTensors::SavedTensors() : before_(saved_list) { saved_list = this; }
SavedTensors::~SavedTensors() { saved_list = before_; }

Node::Node(const char* name) : name_(name), sequence_(next_sequence.fetch_add(1)) {}

Node::~Node() {
  // A graph is as deep as the network: producers are destroyed in a loop, not by recursion.
  thread_local std::vector<std::shared_ptr<Node>>* pending = nullptr;
  if (pending != nullptr) {
    for (Edge& edge : edges_) {
      if (edge.node) pending->push_back(std::move(edge.node));
    }
    return;
  }
  std::vector<std::shared_ptr<Node>> list;
  pending = &list;
  for (Edge& edge : edges_) {
    if (edge.node) list.push_back(std::move(edge.node));
  }
  while (!list.empty()) {
    const std::shared_ptr<Node> node = std::move(list.back());
    list.pop_back();
  }
  pending = nullptr;
}

bool Node::needs(int i) const {
  CAMO_CHECK(i >= 0 && i < static_cast<int>(edges_.size()), name_, ": has ", edges_.size(), " inputs; got needs(", i,
             ")");
  const Edge& edge = edges_[static_cast<size_t>(i)];
  return edge.node != nullptr || edge.leaf.defined();
}

void Node::free_saved() {
  for (Saved* saved : saved_) {
    saved->tensor_ = Tensor();
    saved->freed_ = true;
  }
}

bool grad_enabled() { return recording; }
NoGrad::NoGrad() : previous_(recording) { recording = false; }
NoGrad::~NoGrad() { recording = previous_; }
EnableGrad::EnableGrad() : previous_(recording) { recording = true; }
EnableGrad::~EnableGrad() { recording = previous_; }

bool grad_wanted(std::span<const Tensor> inputs) {
  return recording &&
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return x.defined() && x.requires_grad(); });
}

void require_no_gradient(const char* op, std::initializer_list<Tensor> inputs) {
  CAMO_CHECK(!grad_wanted(inputs), op, ": has no gradient, but an input requires one; detach() it or use NoGrad");
}

void connect(const std::shared_ptr<Node>& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  for (const Tensor& output : outputs) {
    CAMO_CHECK(!output.requires_grad(), "record: the outputs of ", node->name(), " must be new tensors; got one, ",
               output.dtype(), " ", output.shape(),
               ", that wants a gradient already, as an input or the result of another node; copy it with clone()");
  }
  node->edges_.reserve(inputs.size());
  for (const Tensor& input : inputs) {
    Edge edge;
    if (input.defined() && input.requires_grad()) {
      if (input.grad_node()) {
        edge.node = input.grad_node();
        edge.output_index = input.impl()->output_index;
      } else {
        edge.leaf = input;
      }
      edge.shape = input.shape();
      edge.dtype = input.dtype();
    }
    node->edges_.push_back(std::move(edge));
  }
  node->output_count_ = static_cast<int>(outputs.size());
  for (int i = 0; i < node->output_count_; ++i) {
    TensorImpl* impl = outputs[static_cast<size_t>(i)].impl();
    if (!is_floating(impl->dtype)) continue;  // indices and masks carry no gradient
    impl->requires_grad = true;
    impl->grad_node = node;
    impl->output_index = i;
  }
  if (OpObserver* observer = op_observer()) observer->recorded(*node, outputs, inputs);
}

}  // namespace camo
