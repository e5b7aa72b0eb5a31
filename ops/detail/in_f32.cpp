#include "ops/detail/in_f32.h"

#include <deque>

#include "core/autocast.h"
#include "core/op_observer.h"
#include "core/saved_tensors.h"

namespace camo::detail {
namespace {

/// Stands in the graph for a node that computes in f32.
struct InF32Node final : Node {
  explicit InF32Node(std::shared_ptr<Node> node) : Node(node->name().c_str()), inner(std::move(node)) {}

  std::shared_ptr<Node> inner;
  std::vector<int> sources;   // of each input of `inner`: which of ours it is; -1: none
  std::vector<DType> dtypes;  // of our inputs
  std::vector<Saved*> fields;
  std::deque<Saved> kept;  // what `fields` hold during a backward; addresses stay

  Tensors backward(const Tensors& dy) override {
    for (size_t i = 0; i < fields.size(); ++i) *fields[i] = in_f32(*kept[i]);
    Tensors wide = inner->backward({in_f32(dy[0])});
    for (Saved* field : fields) *field = Tensor();
    Tensors gradients(edges().size());
    for (size_t i = 0; i < wide.size(); ++i) {
      if (sources[i] < 0 || !wide[i].defined()) continue;
      const auto source = static_cast<size_t>(sources[i]);
      gradients[source] = rounded_to(wide[i], dtypes[source]);
      wide[i] = Tensor();
    }
    return gradients;
  }
};

class Unobserved {
 public:
  Unobserved() : before_(op_observer()) { observe_ops(nullptr); }
  ~Unobserved() { observe_ops(before_); }
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;

 private:
  OpObserver* before_;
};

/// Whether all of x is all of `memory`, in its order.
bool is_whole(const Tensor& x, const Tensor& memory) {
  return memory.defined() && x.storage() == memory.storage() && x.shape() == memory.shape() &&
         x.strides() == memory.strides() && x.offset() == memory.offset();
}

}  // namespace

Tensor in_f32(const Tensor& x) { return x.defined() && is_16_bit(x.dtype()) ? rounded_to(x, f32) : x.detach(); }

Tensor rounded_to(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x.detach();
  const Tensor y = empty(x.shape(), dtype, x.device());
  copy_into(y, x);
  return y;
}

Tensor in_f32(const Tensors& inputs, DType result, FunctionRef<Tensor(const Tensors&)> operation) {
  const bool recording = grad_wanted(inputs);
  Tensors wide;
  for (const Tensor& input : inputs) {
    wide.push_back(input.defined() ? in_f32(input) : Tensor());
    if (recording && input.defined() && input.requires_grad()) wide.back().set_requires_grad(true);
  }
  std::vector<SavedTensors::Field> fields;
  const Tensor wide_y = [&] {
    const Unobserved unobserved;
    const Autocast exact(f32);
    const SavedTensors saved;
    const Tensor computed = operation(wide);
    fields = saved.fields();
    return computed;
  }();
  const Tensor y = is_floating(wide_y.dtype()) ? rounded_to(wide_y, result) : wide_y.detach();
  if (!wide_y.grad_node()) return y;

  const auto node = std::make_shared<InF32Node>(wide_y.grad_node());
  for (const SavedTensors::Field& field : fields) {
    Tensor kept = **field.saved;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (is_whole(kept, wide[i])) kept = inputs[i];
    }
    if (is_whole(kept, wide_y)) kept = y;
    node->fields.push_back(field.saved);
    node->kept.emplace_back(node.get(), field.name) = kept;
    *field.saved = Tensor();
  }
  for (const Edge& edge : node->inner->edges()) {
    CAMO_ASSERT(edge.node == nullptr);
    const auto found =
        std::find_if(wide.begin(), wide.end(), [&](const Tensor& x) { return x.defined() && x.same_as(edge.leaf); });
    node->sources.push_back(found == wide.end() ? -1 : static_cast<int>(found - wide.begin()));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    node->dtypes.push_back(inputs[i].defined() ? inputs[i].dtype() : f32);
    // The inner node's edges hold the copies, but need only know that there is an input.
    if (wide[i].defined()) wide[i].impl()->storage = nullptr;
  }
  connect(node, std::span<const Tensor>(&y, 1), inputs);
  return y;
}

}  // namespace camo::detail
