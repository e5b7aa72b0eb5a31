// Exponential moving average: shadow += (1 - decay) * (value - shadow).
#include <cmath>
#include <string>
#include <unordered_map>

#include "core/parallel.h"
#include "nn/optim/ema.h"
#ifdef __CUDACC__
#include "core/cuda/multi_tensor.cuh"
#endif

namespace camo {
namespace {

constexpr int64_t kGrain = 1 << 15;

template <class T>
void blend(T* shadow, const T* value, int64_t n, T rest) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) shadow[i] += rest * (value[i] - shadow[i]);
  });
}

#ifdef __CUDACC__
struct NoExtra {};
using EmaItem = cuda::MultiTensorItem<2, NoExtra>;  // shadow, value

template <class T>
struct BlendChunk {
  cuda::Accumulator<T> rest;
  const double* guard;

  struct Body {
    T* shadow;
    const T* value;
    cuda::Accumulator<T> rest;
    template <int N>
    __device__ void operator()(int64_t i) const {
      using A = cuda::Accumulator<T>;
      auto* const at = reinterpret_cast<cuda::Pack<T, N>*>(shadow + i);
      const auto from = *reinterpret_cast<const cuda::Pack<T, N>*>(value + i);
      auto pack = *at;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const A old = convert<A>(pack.values[k]);
        pack.values[k] = convert<T>(old + rest * (convert<A>(from.values[k]) - old));
      }
      *at = pack;
    }
  };

  __device__ void operator()(const EmaItem& item, int64_t begin, int64_t end, uint32_t) const {
    if (guard != nullptr && !isfinite(*guard)) return;
    cuda::for_each_pack<T>(item, begin, end,
                           Body{static_cast<T*>(item.pointers[0]), static_cast<const T*>(item.pointers[1]), rest});
  }
};
#endif

/// All pairs of one dtype on one GPU in a few launches.
void blend_cuda([[maybe_unused]] const Tensors& shadows, [[maybe_unused]] const Tensors& values,
                [[maybe_unused]] double rest, [[maybe_unused]] const Tensor& guard) {
#ifdef __CUDACC__
  const double* const flag = guard.defined() ? guard.data<double>() : nullptr;
  for (const DType dtype : {f32, f64, f16, bf16}) {
    std::vector<EmaItem> items;
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].dtype() == dtype) {
        items.push_back({{shadows[i].raw_data(), values[i].raw_data()}, values[i].numel()});
      }
    }
    if (items.empty()) continue;
    cuda::dispatch_floating(dtype, "ema", [&]<class T>() {
      cuda::for_each_chunk(values.front().device(), items, "ema",
                           BlendChunk<T>{static_cast<cuda::Accumulator<T>>(rest), flag});
    });
  }
#endif
}

std::vector<NamedTensor> tracked(const Module& model) {
  std::vector<NamedTensor> all = model.named_parameters();
  for (NamedTensor& entry : model.named_buffers()) all.push_back(std::move(entry));
  return all;
}

void check_same(const std::vector<NamedTensor>& shadow, const std::vector<NamedTensor>& model) {
  CAMO_CHECK(shadow.size() == model.size(), "ema: the model has ", model.size(), " tensors, its average ",
             shadow.size());
  for (size_t i = 0; i < model.size(); ++i) {
    const Tensor &a = shadow[i].tensor, &b = model[i].tensor;
    CAMO_CHECK(
        shadow[i].name == model[i].name && a.shape() == b.shape() && a.dtype() == b.dtype() && a.device() == b.device(),
        "ema: the model must be as it was when the average began; got ", model[i].name, " ", b.dtype(), " ", b.shape(),
        " on ", b.device(), " for ", shadow[i].name, " ", a.dtype(), " ", a.shape(), " on ", a.device());
  }
}

}  // namespace

Ema::Ema(const Module& model, double decay) : decay_(decay), shadow_(tracked(model)) {
  CAMO_CHECK(decay >= 0 && decay <= 1, "ema: decay must be in [0, 1]; got ", decay);
  for (NamedTensor& entry : shadow_) entry.tensor = clone(entry.tensor);
}

void Ema::update(const Module& model, const Tensor& guard) {
  CAMO_CHECK(!guard.defined() || (guard.numel() == 1 && guard.dtype() == f64),
             "ema: the guard must be one f64 element; got ", guard.dtype(), " ", guard.shape());
  const std::vector<NamedTensor> values = tracked(model);
  check_same(shadow_, values);
  for (const NamedTensor& value : values) {
    CAMO_CHECK(!guard.defined() || !is_floating(value.tensor.dtype()) || guard.device() == value.tensor.device(),
               "ema: the guard must be on ", value.tensor.device(), ", as the model is; got ", guard.device());
  }
  if (guard.defined() && !guard.is_cuda() && !std::isfinite(guard.item())) return;
  Tensors cuda_shadows, cuda_values;
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor &shadow = shadow_[i].tensor, &value = values[i].tensor;
    if (!is_floating(value.dtype())) {
      copy_into(shadow, value);
      continue;
    }
    if (value.is_cuda()) {
      CAMO_CHECK(cuda_values.empty() || value.device() == cuda_values.front().device(),
                 "ema: the model must lie on one GPU; got ", value.device(), " and ", cuda_values.front().device());
      cuda_shadows.push_back(shadow);
      cuda_values.push_back(value);
    } else {
      dispatch_floating(value.dtype(), "ema", [&]<class T>() {
        blend(shadow.data<T>(), value.data<T>(), value.numel(), static_cast<T>(1 - decay_));
      });
    }
    shadow.storage()->bump_version();
  }
  if (!cuda_values.empty()) blend_cuda(cuda_shadows, cuda_values, 1 - decay_, guard);
}

void Ema::copy_counts(const Module& model) {
  const std::vector<NamedTensor> values = tracked(model);
  check_same(shadow_, values);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!is_floating(values[i].tensor.dtype())) copy_into(shadow_[i].tensor, values[i].tensor);
  }
}

void Ema::swap(Module& model) {
  const std::vector<NamedTensor> values = tracked(model);
  check_same(shadow_, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor value = clone(values[i].tensor);
    copy_into(values[i].tensor, shadow_[i].tensor);
    copy_into(shadow_[i].tensor, value);
  }
}

StateDict Ema::state_dict() const {
  StateDict state;
  for (const NamedTensor& entry : shadow_) state.emplace_back(entry.name, entry.exported());
  return state;
}

void Ema::load_state_dict(const StateDict& state) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, values] : state) given.emplace(name, &values);
  CAMO_CHECK_CODE(checkpoint, given.size() == state.size() && state.size() == shadow_.size(), "ema: the average has ",
                  shadow_.size(), " tensors; got ", state.size(), ", ", given.size(), " of different names");
  for (const NamedTensor& entry : shadow_) {
    const auto found = given.find(entry.name);
    CAMO_CHECK_CODE(checkpoint, found != given.end(), "ema: the state has no tensor '", entry.name, "'");
    CAMO_CHECK_CODE(checkpoint, found->second->shape() == entry.exported_shape(), "ema: ", entry.name, " must be ",
                    entry.exported_shape(), "; got ", found->second->shape());
  }
  for (const NamedTensor& entry : shadow_) entry.import(*given.at(entry.name));
}

}  // namespace camo
