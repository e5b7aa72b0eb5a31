// The copies of parameters outlive scopes: a copy is made again when its parameter has changed, and then all copies
// whose parameters have changed are, in as few launches as their addresses fit into.
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "core/autograd.h"
#include "ops/detail/autocast.h"
#include "ops/detail/in_f32.h"
#include "ops/elementwise.h"
#ifdef __CUDACC__
#include "core/cuda/multi_tensor.cuh"
#include "core/cuda/packs.cuh"
#endif

namespace camo::detail {
namespace {

bool concerns(const Tensor& x) {
  return autocast_active() && x.defined() && (x.dtype() == f32 || is_16_bit(x.dtype()));
}

#ifdef __CUDACC__
struct Nothing {};
using Pair = cuda::MultiTensorItem<2, Nothing>;  // a parameter and its copy

template <class R>
struct Convert {
  __device__ void operator()(const Pair& item, int64_t begin, int64_t end, uint32_t) const {
    cuda::for_each_pack<float>(item, begin, end, [&]<int N>(int64_t i) {
      const auto from = cuda::load_pack<N>(static_cast<const float*>(item.pointers[0]) + i);
      cuda::Pack<R, N> to;
#pragma unroll
      for (int n = 0; n < N; ++n) to.values[n] = convert<R>(from.values[n]);
      cuda::store_pack<N>(static_cast<R*>(item.pointers[1]) + i, to);
    });
  }
};
#endif

struct Copy {
  std::weak_ptr<TensorImpl> parameter;
  std::weak_ptr<Storage> source;  // what the copy was made of
  uint64_t version = 0;
  Tensor copy;

  /// By owner, not by address: Module::to() gives a parameter new memory, perhaps where it was two conversions ago.
  bool holds(const Tensor& x) const {
    const bool is_source = !source.owner_before(x.storage()) && !x.storage().owner_before(source);
    return is_source && version == x.version();
  }
};

/// Of one device and dtype.
struct Copies {
  std::map<const TensorImpl*, Copy> entries;

  const Tensor& of(const Tensor& parameter, DType dtype) {
    Copy& entry = entries[parameter.impl()];
    if (entry.parameter.lock() != parameter.impl_ptr()) {  // new, or the parameter before it at this address is gone
      entry = {parameter.impl_ptr(), {}, 0, empty(parameter.shape(), dtype, parameter.device())};
    }
    if (!entry.holds(parameter)) refresh(parameter.device());
    return entry.copy;
  }

  void refresh([[maybe_unused]] Device device) {
#ifdef __CUDACC__
    std::vector<Pair> items;
#endif
    std::vector<std::pair<Copy*, Tensor>> changed;
    [[maybe_unused]] DType dtype = f32;
    for (auto it = entries.begin(); it != entries.end();) {
      Copy& entry = it->second;
      const Tensor parameter(entry.parameter.lock());
      if (!parameter.defined()) {
        it = entries.erase(it);
        continue;
      }
      if (!entry.holds(parameter)) {
        changed.emplace_back(&entry, parameter);
        if (device.is_cpu()) {
          copy_into(entry.copy, parameter);
        } else {
          entry.copy.storage()->bump_version();
          dtype = entry.copy.dtype();
#ifdef __CUDACC__
          items.push_back({{parameter.raw_data(), entry.copy.raw_data()}, parameter.numel(), {}});
#endif
        }
      }
      ++it;
    }
#ifdef __CUDACC__
    if (device.is_cuda()) {
      if (dtype == f16) cuda::for_each_chunk(device, items, "autocast", Convert<Half>{});
      else cuda::for_each_chunk(device, items, "autocast", Convert<BFloat16>{});
    }
#endif
    for (const auto& [entry, parameter] : changed) {  // not before: a launch may fail
      entry->source = parameter.storage();
      entry->version = parameter.version();
    }
  }
};

Copies& copies(Device device, DType dtype) {
  using Key = std::tuple<Device::Kind, int, DType>;
  thread_local auto* all = new std::map<Key, Copies>;  // not freed: the driver may be gone by then
  return (*all)[{device.kind, device.index, dtype}];
}

}  // namespace

Tensor autocast_operand(const Tensor& x) { return concerns(x) ? to(x, autocast_dtype()) : x; }

Tensor autocast_parameter(const Tensor& parameter) {
  if (!concerns(parameter) || parameter.dtype() == autocast_dtype()) return parameter;
  const bool keeps = parameter.is_leaf() && parameter.dtype() == f32 && parameter.is_contiguous();
  const DType dtype = autocast_dtype();
  if (keeps && dtype != f32) return copies(parameter.device(), dtype).of(parameter, dtype);
  const NoGrad no_grad;
  return to(parameter, autocast_dtype());
}

void refresh_autocast_parameters(Device device, DType dtype) {
  if (is_16_bit(dtype)) copies(device, dtype).refresh(device);
}

DType autocast_result(const Tensor& x) { return concerns(x) && x.dtype() == f32 ? autocast_dtype() : x.dtype(); }

bool autocast_mixes(const Tensor& a, const Tensor& b) { return concerns(a) && concerns(b) && a.dtype() != b.dtype(); }

void autocast_promote(Tensor& a, Tensor& b) {
  if (!autocast_mixes(a, b)) return;
  a = to(a, f32);  // f32 with a 16-bit type, or two different ones
  b = to(b, f32);
}

}  // namespace camo::detail
