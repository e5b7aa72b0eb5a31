// Checkpointing by recomputation: checkpoint() of core/autograd.h.
#include <functional>
#include <memory>
#include <vector>

#include "core/autocast.h"
#include "core/autograd.h"
#include "core/random_scope.h"

namespace camo {
namespace {

thread_local bool recomputing = false;

/// Sets a flag within a scope.
class FlagScope {
 public:
  explicit FlagScope(bool& flag) : flag_(flag), previous_(flag) { flag_ = true; }
  ~FlagScope() { flag_ = previous_; }
  FlagScope(const FlagScope&) = delete;
  FlagScope& operator=(const FlagScope&) = delete;

 private:
  bool& flag_;
  bool previous_;
};

struct CheckpointNode final : Node {
  CheckpointNode() : Node("checkpoint") {}
  std::function<Tensor(const Tensors&)> fn;
  std::vector<std::unique_ptr<Saved>> inputs;
  RandomKey random_state;
  DType autocast = f32;

  Tensors backward(const Tensors& dy) override {
    Tensors again;
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensor input = inputs[i]->get();
      if (input.defined()) {
        input = input.detach();
        if (needs(static_cast<int>(i))) input.set_requires_grad(true);
      }
      again.push_back(input);
    }
    Tensor output;
    {
      const RandomScope random(random_state);
      const EnableGrad enable;
      const FlagScope scope(recomputing);
      const Autocast precision(autocast);
      output = fn(again);
    }
    CAMO_CHECK(output.shape() == dy[0].shape() && output.dtype() == dy[0].dtype(),
               "checkpoint: fn must compute the same both times it runs; got ", dy[0].dtype(), " ", dy[0].shape(),
               ", then ", output.dtype(), " ", output.shape());
    if (output.requires_grad()) camo::backward(output, dy[0]);
    Tensors gradients;
    for (const Tensor& input : again) gradients.push_back(input.defined() ? input.grad() : Tensor());
    return gradients;
  }
};

}  // namespace

bool is_recomputing() { return recomputing; }

Tensor checkpoint(const std::function<Tensor(const Tensors&)>& fn, const Tensors& inputs) {
  if (!grad_enabled()) return fn(inputs);
  auto node = std::make_shared<CheckpointNode>();
  node->fn = fn;
  node->random_state = default_generator().state();
  node->autocast = autocast_dtype();
  Tensor output;
  {
    const NoGrad no_grad;
    output = fn(inputs).detach();
  }
  for (const Tensor& input : inputs) {
    node->inputs.push_back(std::make_unique<Saved>(node.get(), "input"));
    *node->inputs.back() = input;
  }
  // fn's parameters are not among the inputs, so the node is recorded whether or not an input requires a gradient.
  connect(node, std::span<const Tensor>(&output, 1), inputs);
  return output;
}

}  // namespace camo
