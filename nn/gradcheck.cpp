#include "nn/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "core/autograd.h"
#include "core/parallel.h"
#include "core/random.h"

namespace camo {
namespace {

constexpr double kKink = 1e-3;  // slopes on two sides that differ by more, relatively, are not one slope's rounding

/// A tensor whose gradient is checked, and what messages call it.
struct Checked {
  std::string label;
  Tensor leaf;
};

using Values = std::vector<std::vector<double>>;
using Gradients = std::vector<std::optional<std::vector<double>>>;  // one a checked tensor, none if it got no gradient

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.10g", value);
  return buffer;
}

Shape index_of(int64_t flat, const Shape& shape) {
  Shape index = shape;
  for (int axis = shape.size() - 1; axis >= 0; --axis) {
    index[axis] = flat % shape[axis];
    flat /= shape[axis];
  }
  return index;
}

/// Offset of an element in its storage.
int64_t offset_of(const Tensor& x, int64_t flat) {
  const Shape index = index_of(flat, x.shape());
  int64_t offset = x.offset();
  for (int axis = 0; axis < index.size(); ++axis) offset += index[axis] * x.strides()[axis];
  return offset;
}

/// Moves one element and puts it back at the end of its scope, also when the function throws. Works on every device:
/// setting an element is one small fill and waits for nothing.
class Perturbation {
 public:
  Perturbation(const Tensor& x, int64_t flat, double value)
      : element_(make_view(x, {1}, {1}, offset_of(x, flat))), value_(value) {}
  ~Perturbation() { set(value_); }
  Perturbation(const Perturbation&) = delete;
  Perturbation& operator=(const Perturbation&) = delete;

  double value() const { return value_; }
  void set(double value) const { fill(element_, value); }

 private:
  Tensor element_;
  double value_;
};

void check_inputs(const std::vector<Checked>& checked) {
  std::vector<std::pair<const double*, const Checked*>> elements;  // addresses, which may be a device's
  for (const Checked& item : checked) {
    const auto* start = static_cast<const double*>(item.leaf.storage()->data());
    for (int64_t i = 0; i < item.leaf.numel(); ++i) elements.emplace_back(start + offset_of(item.leaf, i), &item);
  }
  std::sort(elements.begin(), elements.end());
  for (size_t i = 1; i < elements.size(); ++i) {
    CAMO_CHECK(elements[i].first != elements[i - 1].first,
               "gradcheck: each element needs memory of its own, as it is changed in place; got ",
               elements[i - 1].second->label, " and ", elements[i].second->label,
               " sharing an element; pass contiguous copies");
  }
}

Tensor random_cotangent(const Tensor& output, uint64_t seed, uint64_t index) {
  const RandomKey key{seed, index};
  std::vector<double> weights(static_cast<size_t>(output.numel()));
  for (size_t i = 0; i < weights.size(); ++i) {  // away from 0, so that no output goes unseen
    const double magnitude = 0.5 + double{key.uniform(2 * i)};
    weights[i] = key.bits(2 * i + 1) & 0x80000000u ? -magnitude : magnitude;
  }
  Tensor cotangent = empty(output.shape(), output.dtype(), output.device());
  copy_into(cotangent, from_vector(weights, output.shape(), cpu));
  return cotangent;
}

/// Runs backward on the outputs that have a graph, and takes the gradients out of the leaves.
Gradients run_backward(const Tensors& outputs, const Tensors& cotangents, const std::vector<Checked>& checked) {
  Tensors connected, weights;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad()) continue;
    connected.push_back(outputs[i]);
    weights.push_back(cotangents[i]);
  }
  for (const Checked& item : checked) item.leaf.set_grad({});
  backward(connected, weights, {.retain_graph = true});
  Gradients gradients;
  for (const Checked& item : checked) {
    const Tensor gradient = item.leaf.grad();
    item.leaf.set_grad({});
    if (!gradient.defined()) {
      gradients.emplace_back();
      continue;
    }
    CAMO_CHECK(gradient.shape() == item.leaf.shape() && gradient.dtype() == f64,
               "gradcheck: a gradient has its tensor's shape and dtype; got ", gradient.dtype(), " ", gradient.shape(),
               " for ", item.label, " ", item.leaf.shape());
    gradients.emplace_back(gradient.to_vector<double>());
  }
  return gradients;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

/// The projected outputs, floating ones only. Those without a graph take part: a graph cut by mistake shows as a wrong
/// gradient.
struct Projection {
  Values weights;  // empty for outputs left out

  Values values(const Tensors& outputs) const {
    Values all(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      if (!weights[i].empty()) all[i] = outputs[i].to_vector<double>();
    }
    return all;
  }

  /// Sum of weight * (upper - lower): summing differences keeps the rounding of unchanged outputs out.
  double difference(const Values& upper, const Values& lower) const {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      for (size_t j = 0; j < weights[i].size(); ++j) sum += weights[i][j] * (upper[i][j] - lower[i][j]);
    }
    return sum;
  }
};

GradcheckResult failure(std::string message) {
  return {.ok = false, .worst_error = std::numeric_limits<double>::infinity(), .message = std::move(message)};
}

/// `here`: the outputs where nothing is moved.
GradcheckResult compare_with_differences(const std::function<Tensors()>& run, const std::vector<Checked>& checked,
                                         const Projection& projection, const Values& here, const Gradients& analytic,
                                         const GradcheckOptions& options) {
  const NoGrad no_grad;
  const SerialScope serial;  // thousands of tiny runs
  const double floor = options.absolute_tolerance / options.relative_tolerance;
  GradcheckResult result{.ok = true, .worst_error = 0, .message = {}};
  for (size_t k = 0; k < checked.size(); ++k) {
    const Tensor& leaf = checked[k].leaf;
    const std::vector<double> values = leaf.to_vector<double>();
    const int64_t moved = options.elements > 0 ? std::min(options.elements, leaf.numel()) : leaf.numel();
    for (int64_t m = 0; m < moved; ++m) {
      const int64_t i = m * leaf.numel() / moved;
      const Perturbation element(leaf, i, values[static_cast<size_t>(i)]);
      const double upper = element.value() + options.step, lower = element.value() - options.step;
      element.set(upper);
      const auto above = projection.values(run());
      element.set(lower);
      const auto below = projection.values(run());
      const double numeric = projection.difference(above, below) / (upper - lower);
      const double given = (*analytic[k])[static_cast<size_t>(i)];
      double error = std::abs(given - numeric) / (floor + std::abs(numeric));
      if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
      if (error <= result.worst_error) continue;
      result.worst_error = error;
      if (error <= options.relative_tolerance) continue;
      result.ok = false;
      result.message = concat_text("gradcheck: ", checked[k].label, ", element ", index_of(i, leaf.shape()), " of ",
                                   leaf.shape(), ": analytic gradient ", text(given), ", numeric ", text(numeric),
                                   " (error ", text(error), ", allowed ", text(options.relative_tolerance), ")");
      const double right = projection.difference(above, here) / (upper - element.value());
      const double left = projection.difference(here, below) / (element.value() - lower);
      if (std::abs(right - left) > kKink * (floor + std::abs(right) + std::abs(left))) {
        result.message += concat_text("; the slope is ", text(left), " on one side and ", text(right),
                                      " on the other: a point without a derivative, where another input would do");
      }
    }
  }
  return result;
}

/// What is wrong with a graph that leads to leaves other than the checked ones; empty when none does.
std::string find_unregistered(const Tensors& outputs, const std::vector<Checked>& checked) {
  std::unordered_set<const TensorImpl*> known;
  for (const Checked& item : checked) known.insert(item.leaf.impl());
  std::vector<const Node*> stack;
  std::unordered_set<const Node*> seen;
  const auto visit = [&](const Node* node) {
    if (node != nullptr && seen.insert(node).second) stack.push_back(node);
  };
  for (const Tensor& output : outputs) visit(output.grad_node().get());
  while (!stack.empty()) {
    const Node& node = *stack.back();
    stack.pop_back();
    for (const Edge& edge : node.edges()) {
      visit(edge.node.get());
      if (!edge.leaf.defined() || known.contains(edge.leaf.impl())) continue;
      return concat_text("gradcheck: ", node.name(), " uses a tensor, ", edge.leaf.dtype(), " ", edge.leaf.shape(),
                         ", that wants a gradient and is neither an input nor a parameter of the module; register it "
                         "with param(), or its layer with child()");
    }
  }
  return {};
}

enum class Leaves { checked_only, others_too };  // which may lie below the outputs

GradcheckResult check(const std::function<Tensors()>& run, const std::vector<Checked>& checked, Leaves allowed,
                      const GradcheckOptions& options) {
  CAMO_CHECK(!checked.empty(), "gradcheck: nothing to check: pass at least one f64 input");
  CAMO_CHECK(options.relative_tolerance > 0 && options.step > 0,
             "gradcheck: relative_tolerance and step must be positive; got ", options.relative_tolerance, ", ",
             options.step);
  CAMO_CHECK(options.elements >= 0, "gradcheck: elements must be positive, or 0 for all; got ", options.elements);
  check_inputs(checked);

  const EnableGrad recording;
  const Tensors outputs = run();
  const bool connected =
      std::any_of(outputs.begin(), outputs.end(), [](const Tensor& output) { return output.requires_grad(); });
  if (!connected) return failure("gradcheck: no output depends on any input: the graph is cut");
  if (allowed == Leaves::checked_only) {
    if (std::string message = find_unregistered(outputs, checked); !message.empty()) return failure(std::move(message));
  }
  Tensors cotangents, zero_cotangents;
  Projection projection;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const bool floating = is_floating(outputs[i].dtype());
    cotangents.push_back(floating ? random_cotangent(outputs[i], options.seed, i) : Tensor());
    zero_cotangents.push_back(floating ? zeros_like(outputs[i]) : Tensor());
    projection.weights.push_back(floating ? cotangents[i].to_vector<double>() : std::vector<double>());
  }
  const auto values = projection.values(outputs), again = projection.values(run());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!same_bits(values[i], again[i])) {
      return failure(concat_text("gradcheck: output ", i,
                                 ": two forward runs on the same inputs differ; if it draws random numbers, "
                                 "seed_everything() inside the function makes them the same"));
    }
  }

  const Gradients analytic = run_backward(outputs, cotangents, checked);
  const Gradients repeated = run_backward(outputs, cotangents, checked);
  const Gradients of_zero = run_backward(outputs, zero_cotangents, checked);
  for (size_t k = 0; k < checked.size(); ++k) {
    const std::string& label = checked[k].label;
    if (!analytic[k])
      return failure(concat_text("gradcheck: ", label,
                                 ": got no gradient: the graph is cut, or no output depends on it; "
                                 "a parameter that is meant to be left out can be frozen"));
    if (!repeated[k] || !same_bits(*analytic[k], *repeated[k])) {
      return failure(concat_text("gradcheck: ", label, ": two backward runs differ"));
    }
    if (!of_zero[k]) continue;
    for (size_t i = 0; i < of_zero[k]->size(); ++i) {
      const double gradient = (*of_zero[k])[i];
      if (gradient == 0) continue;
      return failure(concat_text("gradcheck: ", label, ", element ",
                                 index_of(static_cast<int64_t>(i), checked[k].leaf.shape()),
                                 ": a zero cotangent must give a zero gradient; got ", text(gradient)));
    }
  }
  return compare_with_differences(run, checked, projection, values, analytic, options);
}

/// The inputs with f64 ones replaced by leaves that share their memory, which are added to `checked`.
Tensors make_leaves(const Tensors& inputs, std::vector<Checked>& checked) {
  Tensors leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined() || !is_floating(inputs[i].dtype())) {
      leaves.push_back(inputs[i]);
      continue;
    }
    CAMO_CHECK(inputs[i].dtype() == f64, "gradcheck: floating inputs must be f64; got input ", i, " ",
               inputs[i].dtype(), " ", inputs[i].shape(), "; convert with to(x, f64)");
    leaves.push_back(inputs[i].detach());
    leaves.back().set_requires_grad(true);
    checked.push_back({concat_text("input ", i), leaves.back()});
  }
  return leaves;
}

}  // namespace

GradcheckResult gradcheck(const TensorFunction& fn, const Tensors& inputs, const GradcheckOptions& options) {
  std::vector<Checked> checked;
  const Tensors leaves = make_leaves(inputs, checked);
  return check([&] { return fn(leaves); }, checked, Leaves::others_too, options);
}

GradcheckResult gradcheck(Module& module, const TensorFunction& forward, const Tensors& inputs,
                          const GradcheckOptions& options) {
  std::vector<Checked> checked;
  const Tensors leaves = make_leaves(inputs, checked);
  for (const NamedTensor& parameter : module.named_parameters()) {
    CAMO_CHECK(parameter.tensor.dtype() == f64, "gradcheck: parameters must be f64; got ", parameter.name, " ",
               parameter.tensor.dtype(), "; convert with module.to(f64)");
    if (parameter.tensor.requires_grad()) checked.push_back({"parameter " + parameter.name, parameter.tensor});
  }
  return check([&] { return forward(leaves); }, checked, Leaves::checked_only, options);
}

}  // namespace camo
