#include "apps/camoxpert/training/finite_search.h"

#include <fmt/core.h>

#include <cmath>
#include <unordered_map>

#include "core/op_observer.h"
#include "ops/elementwise.h"

namespace camo::app {

namespace {

int64_t count_non_finite(const Tensor& x) {
  if (!x.defined() || !is_floating(x.dtype())) return 0;
  const NoGrad no_grad;
  int64_t count = 0;
  for (const double value : to(x, f64).to_vector<double>()) count += std::isfinite(value) ? 0 : 1;
  return count;
}

std::string share(const Tensor& x) {
  return fmt::format("{} of {} elements of {}", count_non_finite(x), x.numel(), x.shape().str());
}

/// "backbone.stem_0.weight" -> "backbone.stem_0"
std::string layer_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

/// An operation belongs to the layer whose parameters it uses, or comes after the layer that was used last.
class Search final : public OpObserver {
 public:
  explicit Search(const CamoXpert& network) {
    for (const NamedTensor& parameter : network.named_parameters()) names_[parameter.tensor.impl()] = parameter.name;
  }

  void recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor>) override {
    bool own = false;
    for (const Edge& edge : node.edges()) {
      const auto found = edge.leaf.defined() ? names_.find(edge.leaf.impl()) : names_.end();
      if (found == names_.end()) continue;
      layer_ = layer_of(found->second);
      own = true;
    }
    const std::string place = layer_.empty() ? "before the first layer" : (own ? "in " : "after ") + layer_;
    places_[&node] = place;
    for (const Tensor& output : outputs) {
      if (!found_.empty() || count_non_finite(output) == 0) continue;
      found_ = fmt::format("the result of {} {}: {}", node.name(), place, share(output));
    }
  }

  void backward_begins(const Node&) override {}
  void backward_ended(const Node&) override {}
  void differentiated(const Node& node, std::span<const Tensor> gradients) override {
    for (size_t i = 0; i < gradients.size() && found_.empty(); ++i) {
      if (!node.needs(static_cast<int>(i)) || count_non_finite(gradients[i]) == 0) continue;
      const Tensor& leaf = node.edges()[i].leaf;
      const auto parameter = leaf.defined() ? names_.find(leaf.impl()) : names_.end();
      const auto place = places_.find(&node);
      found_ = fmt::format("the gradient {} that {} {} computed: {}",
                           parameter == names_.end() ? "of an input" : "of " + parameter->second, node.name(),
                           place == places_.end() ? "" : place->second, share(gradients[i]));
    }
  }

  const std::string& found() const { return found_; }

 private:
  std::unordered_map<const TensorImpl*, std::string> names_;
  std::unordered_map<const Node*, std::string> places_;
  std::string layer_, found_;
};

/// Only what leads to a gradient is recorded: nothing is frozen within this scope.
class Unfrozen {
 public:
  explicit Unfrozen(const CamoXpert& network) {
    for (const Tensor& parameter : network.parameters()) {
      if (parameter.requires_grad()) continue;
      frozen_.push_back(parameter);
      parameter.set_requires_grad(true);
    }
  }
  ~Unfrozen() {
    for (const Tensor& parameter : frozen_) {
      parameter.set_grad({});
      parameter.set_requires_grad(false);
    }
  }
  Unfrozen(const Unfrozen&) = delete;
  Unfrozen& operator=(const Unfrozen&) = delete;

 private:
  Tensors frozen_;
};

/// Has this thread's operations observed within its scope.
class Observing {
 public:
  explicit Observing(OpObserver& observer) : before_(op_observer()) { observe_ops(&observer); }
  ~Observing() { observe_ops(before_); }
  Observing(const Observing&) = delete;
  Observing& operator=(const Observing&) = delete;

 private:
  OpObserver* before_;
};

}  // namespace

std::string find_first_non_finite(CamoXpert& network, const std::function<void()>& step) {
  const auto first_of = [](const std::vector<NamedTensor>& tensors) {
    for (const NamedTensor& entry : tensors) {
      if (count_non_finite(entry.tensor) > 0) return fmt::format("{}: {}", entry.name, share(entry.tensor));
    }
    return std::string();
  };
  for (const auto& tensors : {network.named_parameters(), network.named_buffers()}) {
    if (std::string found = first_of(tensors); !found.empty()) return found;
  }
  Search search(network);
  {
    const Unfrozen unfrozen(network);
    const Observing observing(search);
    step();
  }
  return search.found().empty() ? first_of(network.named_buffers()) : search.found();
}

}  // namespace camo::app
