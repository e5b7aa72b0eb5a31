// AdamW, as torch.optim.AdamW computes it. With t the parameter's step count after this step:
//
//   p *= 1 - lr * weight_decay
//   m += (1 - beta1) * (g - m)
//   v  = beta2 * v + (1 - beta2) * g^2
//   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// One pass over memory a parameter; on CUDA one kernel for several hundred parameters. The factors are computed in
// double and rounded to the parameter's dtype once.
#include <cmath>
#include <unordered_set>

#include "core/parallel.h"
#include "nn/optim/adamw.h"
#ifdef __CUDACC__
#include "core/cuda/multi_tensor.cuh"
#endif

namespace camo {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class T>
struct AdamWFactors {
  T decay, beta1_rest, beta2, beta2_rest, step_size, bias2_root, eps;

  AdamWFactors() = default;
  AdamWFactors(const AdamWOptions& options, double lr, int64_t step)
      : decay(static_cast<T>(1 - lr * options.weight_decay)),
        beta1_rest(static_cast<T>(1 - options.beta1)),
        beta2(static_cast<T>(options.beta2)),
        beta2_rest(static_cast<T>(1 - options.beta2)),
        step_size(static_cast<T>(lr / (1 - std::pow(options.beta1, static_cast<double>(step))))),
        bias2_root(static_cast<T>(std::sqrt(1 - std::pow(options.beta2, static_cast<double>(step))))),
        eps(static_cast<T>(options.eps)) {}
};

/// p, m and v after the step, from their values before.
template <class T>
CAMO_HOST_DEVICE inline void adamw_element(T& p, T gradient, T& m, T& v, const AdamWFactors<T>& f) {
  m += f.beta1_rest * (gradient - m);
  v = v * f.beta2 + f.beta2_rest * gradient * gradient;
  p = p * f.decay - f.step_size * (m / (std::sqrt(v) / f.bias2_root + f.eps));
}

template <class T>
void adamw_cpu(T* p, const T* g, T* m, T* v, int64_t n, const AdamWFactors<T>& f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) adamw_element(p[i], g[i], m[i], v[i], f);
  });
}

#ifdef __CUDACC__
template <class T>
using AdamWItem = cuda::MultiTensorItem<4, AdamWFactors<T>>;  // p, g, m, v

template <class T>
struct AdamWChunk {
  const double* guard;

  struct Body {
    const AdamWItem<T>& item;
    template <int N>
    __device__ void operator()(int64_t i) const {
      using Pack = cuda::Pack<T, N>;
      auto* const at_p = reinterpret_cast<Pack*>(static_cast<T*>(item.pointers[0]) + i);
      auto* const at_m = reinterpret_cast<Pack*>(static_cast<T*>(item.pointers[2]) + i);
      auto* const at_v = reinterpret_cast<Pack*>(static_cast<T*>(item.pointers[3]) + i);
      const Pack g = *reinterpret_cast<const Pack*>(static_cast<const T*>(item.pointers[1]) + i);
      Pack p = *at_p, m = *at_m, v = *at_v;
#pragma unroll
      for (int k = 0; k < N; ++k) adamw_element(p.values[k], g.values[k], m.values[k], v.values[k], item.extra);
      *at_p = p;
      *at_m = m;
      *at_v = v;
    }
  };

  __device__ void operator()(const AdamWItem<T>& item, int64_t begin, int64_t end, uint32_t) const {
    if (guard != nullptr && !isfinite(*guard)) return;
    cuda::for_each_pack<T>(item, begin, end, Body{item});
  }
};
#endif

Tensor dense_gradient(const Tensor& parameter) {
  return parameter.grad().is_contiguous() ? parameter.grad() : clone(parameter.grad());
}

}  // namespace

AdamW::AdamW(const Module& module, const AdamWOptions& options)
    : AdamW(std::vector<ParameterGroup>{{.parameters = module.named_parameters()}}, options) {}

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
    CAMO_CHECK(group.lr_scale >= 0, "AdamW: lr_scale must not be negative; got ", group.lr_scale);
    for (const NamedTensor& parameter : group.parameters) {
      CAMO_CHECK(parameter.tensor.defined() && (parameter.tensor.dtype() == f32 || parameter.tensor.dtype() == f64) &&
                     parameter.tensor.is_contiguous(),
                 "AdamW: parameters must be contiguous f32 or f64; got ", parameter.name);
      CAMO_CHECK(names.insert(parameter.name).second && tensors.insert(parameter.tensor.impl()).second,
                 "AdamW: each parameter belongs to one group; got '", parameter.name, "' twice");
    }
    states_.emplace_back(group.parameters.size());
  }
  CAMO_CHECK(!names.empty(), "AdamW: needs parameters; got none; a module registers its own with param() and child()");
}

void AdamW::set_lr(double lr) {
  CAMO_CHECK(lr >= 0, "AdamW: lr must not be negative; got ", lr);
  options_.lr = lr;
}

/// Module::to() changes parameters under an optimizer.
void AdamW::check_states() const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t i = 0; i < states_[g].size(); ++i) {
      const auto& [name, parameter, layout, is_buffer] = groups_[g].parameters[i];
      const Tensor& state = states_[g][i].exp_avg;
      CAMO_CHECK(!state.defined() || (state.dtype() == parameter.dtype() && state.device() == parameter.device()),
                 "AdamW: the state must have dtype and device of its parameter; got ", state.dtype(), " on ",
                 state.device(), " for '", name, "', ", parameter.dtype(), " on ", parameter.device(),
                 "; load_state_dict(state_dict()) converts it");
    }
  }
}

AdamW::State& AdamW::advance(size_t group, size_t index) {
  State& state = states_[group][index];
  if (!state.exp_avg.defined()) {
    const Tensor& parameter = groups_[group].parameters[index].tensor;
    const Tensor exp_avg = zeros_like(parameter);
    state.exp_avg_sq = zeros_like(parameter);  // when memory lacks for it, the first is not there either
    state.exp_avg = exp_avg;
  }
  ++state.step;
  return state;
}

void AdamW::step_cpu(const Tensor& guard) {
  const bool frozen = guard.defined() && !std::isfinite(guard.item());
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double lr = options_.lr * groups_[g].lr_scale;
    for (size_t i = 0; i < states_[g].size(); ++i) {
      const Tensor& parameter = groups_[g].parameters[i].tensor;
      if (parameter.is_cuda() || !parameter.grad().defined()) continue;
      const Tensor gradient = dense_gradient(parameter);
      State& state = advance(g, i);
      if (frozen) continue;
      dispatch_floating(parameter.dtype(), "AdamW", [&]<class T>() {
        adamw_cpu(parameter.data<T>(), gradient.data<T>(), state.exp_avg.data<T>(), state.exp_avg_sq.data<T>(),
                  parameter.numel(), AdamWFactors<T>(options_, lr, state.step));
      });
      parameter.storage()->bump_version();
    }
  }
}

void AdamW::step_cuda([[maybe_unused]] const Tensor& guard) {
#ifdef __CUDACC__
  std::vector<AdamWItem<float>> single;
  std::vector<AdamWItem<double>> precise;
  Tensors gradients;  // alive until the launch
  const auto add = [&]<class T>(std::vector<AdamWItem<T>>& items, const Tensor& parameter, const Tensor& gradient,
                                const State& state, double lr) {
    items.push_back({{parameter.raw_data(), gradient.raw_data(), state.exp_avg.raw_data(), state.exp_avg_sq.raw_data()},
                     parameter.numel(),
                     AdamWFactors<T>(options_, lr, state.step)});
  };
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double lr = options_.lr * groups_[g].lr_scale;
    for (size_t i = 0; i < states_[g].size(); ++i) {
      const Tensor& parameter = groups_[g].parameters[i].tensor;
      if (!parameter.is_cuda() || !parameter.grad().defined()) continue;
      gradients.push_back(dense_gradient(parameter));
      const State& state = advance(g, i);
      if (parameter.dtype() == f32) add(single, parameter, gradients.back(), state, lr);
      else add(precise, parameter, gradients.back(), state, lr);
      parameter.storage()->bump_version();
    }
  }
  if (gradients.empty()) return;
  const Device device = gradients.front().device();
  const double* const flag = guard.defined() ? guard.data<double>() : nullptr;
  cuda::for_each_chunk(device, single, "adamw", AdamWChunk<float>{flag});
  cuda::for_each_chunk(device, precise, "adamw", AdamWChunk<double>{flag});
#endif
}

void AdamW::step(const Tensor& guard) {
  CAMO_CHECK(!guard.defined() || (guard.numel() == 1 && guard.dtype() == f64),
             "AdamW: the guard must be one f64 element; got ", guard.dtype(), " ", guard.shape());
  check_states();
  bool any_cpu = false, any_cuda = false;
  Device gpu;
  for (const ParameterGroup& group : groups_) {
    for (const NamedTensor& parameter : group.parameters) {
      const Tensor& tensor = parameter.tensor;
      if (!tensor.grad().defined()) continue;
      if (!tensor.is_cuda()) {
        any_cpu = true;
        continue;
      }
      if (!any_cuda) gpu = tensor.device();
      any_cuda = true;
      CAMO_CHECK(tensor.device() == gpu, "AdamW: parameters must lie on one GPU; got ", gpu, " and ", tensor.device());
      CAMO_CHECK(!guard.defined() || guard.device() == gpu, "AdamW: the guard must be on ", gpu, "; got ",
                 guard.device());
    }
  }
  if (any_cpu) step_cpu(guard);
  if (any_cuda) step_cuda(guard);
}

void AdamW::zero_grad() {
  for (const ParameterGroup& group : groups_) {
    for (const NamedTensor& parameter : group.parameters) parameter.tensor.set_grad({});
  }
}

}  // namespace camo
