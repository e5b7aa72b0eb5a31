// AdamW, and gradient clipping.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/module.h"

namespace camo {

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;
};

/// Parameters that share a learning rate: lr = AdamW's lr * lr_scale.
struct ParameterGroup {
  std::vector<NamedTensor> parameters;
  double lr_scale = 1;
};

/// Adam with decoupled weight decay (arXiv:1711.05101), as PyTorch computes it. A parameter without a gradient is left
/// alone: no decay, no state, and its own step count.
class AdamW {
 public:
  /// All parameters of the module.
  explicit AdamW(const Module& module, const AdamWOptions& options = {});
  /// Throws when there is no parameter at all, when one is in two groups, and on options out of range.
  explicit AdamW(std::vector<ParameterGroup> groups, const AdamWOptions& options = {});

  /// With a `guard` (one f64 element on the parameters' device), nothing changes but the step counts while that is not
  /// finite: what is not known on the host yet can't spoil the weights.
  void step(const Tensor& guard = {});
  void zero_grad();
  double lr() const { return options_.lr; }
  void set_lr(double lr);
  const std::vector<ParameterGroup>& groups() const { return groups_; }

  /// How many steps each parameter took, in the order of the groups; and back to earlier counts, when steps changed
  /// nothing because of their guard.
  std::vector<int64_t> step_counts() const;
  void set_step_counts(const std::vector<int64_t>& counts);

  /// State as named tensors: "NAME.exp_avg", "NAME.exp_avg_sq" (memory layout), "NAME.step" (i64).
  StateDict state_dict() const;
  /// Throws ErrorCode::checkpoint on names that fit no parameter and on other shapes.
  void load_state_dict(const StateDict& state);

 private:
  struct State {
    Tensor exp_avg, exp_avg_sq;  // undefined before the first gradient
    int64_t step = 0;
  };
  void check_states() const;
  void step_cpu(const Tensor& guard);
  void step_cuda(const Tensor& guard);
  State& advance(size_t group, size_t index);

  AdamWOptions options_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::vector<State>> states_;  // [group][parameter]
};

/// Euclidean norm over all gradients (parameters without one count as 0), accumulated in double.
double gradient_norm(const Tensors& parameters);
/// Scales all gradients by max_norm / (norm + 1e-6) when the norm is larger (as PyTorch); returns the norm before.
double clip_gradient_norm(const Tensors& parameters, double max_norm);
/// The same without waiting for the device: the norm is one f64 element there. All gradients lie on one device. They
/// are multiplied by `unscale`, within (0, 1], before all else, in the same pass.
Tensor clip_gradients(const Tensors& parameters, double max_norm, double unscale = 1);

}  // namespace camo
