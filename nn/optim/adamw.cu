// AdamW, as torch.optim.AdamW computes it. With t the parameter's step count after this step:
//
//   p *= 1 - lr * weight_decay
//   m += (1 - beta1) * (g - m)
//   v  = beta2 * v + (1 - beta2) * g^2
//   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// One pass over memory a parameter. The factors are computed in double and rounded to the parameter's dtype once.
#include <cmath>
#include <unordered_set>

#include "core/parallel.h"
#include "nn/optim/adamw.h"

namespace camo {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class T>
struct AdamWFactors {
  T decay, beta1_rest, beta2, beta2_rest, step_size, bias2_root, eps;

  AdamWFactors(const AdamWOptions& options, double lr, int64_t step)
      : decay(static_cast<T>(1 - lr * options.weight_decay)),
        beta1_rest(static_cast<T>(1 - options.beta1)),
        beta2(static_cast<T>(options.beta2)),
        beta2_rest(static_cast<T>(1 - options.beta2)),
        step_size(static_cast<T>(lr / (1 - std::pow(options.beta1, static_cast<double>(step))))),
        bias2_root(static_cast<T>(std::sqrt(1 - std::pow(options.beta2, static_cast<double>(step))))),
        eps(static_cast<T>(options.eps)) {}
};

template <class T>
void adamw_cpu(T* p, const T* g, T* m, T* v, int64_t n, const AdamWFactors<T>& f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T gradient = g[i];
      const T mean = m[i] + f.beta1_rest * (gradient - m[i]);
      const T square = v[i] * f.beta2 + f.beta2_rest * gradient * gradient;
      m[i] = mean;
      v[i] = square;
      p[i] = p[i] * f.decay - f.step_size * (mean / (std::sqrt(square) / f.bias2_root + f.eps));
    }
  });
}

}  // namespace

AdamW::AdamW(std::vector<ParameterGroup> groups, const AdamWOptions& options)
    : options_(options), groups_(std::move(groups)) {
  CAMO_CHECK(options.lr >= 0 && options.eps >= 0 && options.weight_decay >= 0,
             "AdamW: lr, eps and weight_decay must not be negative; got ", options.lr, ", ", options.eps, ", ",
             options.weight_decay);
  CAMO_CHECK(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
             "AdamW: betas must be in [0, 1); got ", options.beta1, ", ", options.beta2);
  std::unordered_set<std::string> names;
  std::unordered_set<const TensorImpl*> tensors;
  for (const ParameterGroup& group : groups_) {
    for (const NamedTensor& parameter : group.parameters) {
      CAMO_CHECK(parameter.tensor.defined() && (parameter.tensor.dtype() == f32 || parameter.tensor.dtype() == f64) &&
                     parameter.tensor.is_contiguous(),
                 "AdamW: parameters must be contiguous f32 or f64; got ", parameter.name);
      CAMO_CHECK(names.insert(parameter.name).second && tensors.insert(parameter.tensor.impl()).second,
                 "AdamW: each parameter belongs to one group; got '", parameter.name, "' twice");
    }
    states_.emplace_back(group.parameters.size());
  }
}

void AdamW::step() {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double lr = options_.lr * groups_[g].lr_scale;
    for (size_t i = 0; i < states_[g].size(); ++i) {
      const Tensor& parameter = groups_[g].parameters[i].tensor;
      if (!parameter.grad().defined()) continue;
      const Tensor gradient = parameter.grad().is_contiguous() ? parameter.grad() : clone(parameter.grad());
      State& state = states_[g][i];
      if (!state.exp_avg.defined()) {
        state.exp_avg = zeros_like(parameter);
        state.exp_avg_sq = zeros_like(parameter);
      }
      ++state.step;
      dispatch_floating(parameter.dtype(), "AdamW", [&]<class T>() {
        adamw_cpu(parameter.data<T>(), gradient.data<T>(), state.exp_avg.data<T>(), state.exp_avg_sq.data<T>(),
                  parameter.numel(), AdamWFactors<T>(options_, lr, state.step));
      });
      parameter.storage()->bump_version();
    }
  }
}

void AdamW::zero_grad() {
  for (const ParameterGroup& group : groups_) {
    for (const NamedTensor& parameter : group.parameters) parameter.tensor.set_grad({});
  }
}

}  // namespace camo
