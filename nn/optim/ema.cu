// Exponential moving average: shadow += (1 - decay) * (value - shadow).
#include <string>
#include <unordered_map>

#include "core/parallel.h"
#include "nn/optim/ema.h"

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

void Ema::update(const Module& model) {
  const std::vector<NamedTensor> values = tracked(model);
  check_same(shadow_, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor &shadow = shadow_[i].tensor, &value = values[i].tensor;
    if (!is_floating(value.dtype())) {
      copy_into(shadow, value);
      continue;
    }
    dispatch_floating(value.dtype(), "ema", [&]<class T>() {
      blend(shadow.data<T>(), value.data<T>(), value.numel(), static_cast<T>(1 - decay_));
    });
    shadow.storage()->bump_version();
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
