#include <utility>

#include "core/additions.h"
#include "core/error.h"
#ifdef __CUDACC__
#include "core/cuda/multi_tensor.cuh"
#endif

namespace camo {

namespace {

constexpr int64_t kMostWaiting = int64_t{32} << 20;  // bytes

#ifdef __CUDACC__
using Item = cuda::MultiTensorItem<2, int>;

/// pointers[0] += pointers[1]
template <class T>
struct AddChunk {
  struct Body {
    T* target;
    const T* source;
    template <int N>
    __device__ void operator()(int64_t i) const {
      using A = cuda::Accumulator<T>;
      auto sum = *reinterpret_cast<cuda::Pack<T, N>*>(target + i);
      const auto added = *reinterpret_cast<const cuda::Pack<T, N>*>(source + i);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        sum.values[k] = convert<T>(convert<A>(sum.values[k]) + convert<A>(added.values[k]));
      }
      *reinterpret_cast<cuda::Pack<T, N>*>(target + i) = sum;
    }
  };

  __device__ void operator()(const Item& item, int64_t begin, int64_t end, uint32_t) const {
    cuda::for_each_pack<T>(item, begin, end,
                           Body{static_cast<T*>(item.pointers[0]), static_cast<T*>(item.pointers[1])});
  }
};
#endif

/// Of one dtype and device, contiguous.
void add_all_cuda([[maybe_unused]] const Tensors& targets, [[maybe_unused]] const Tensors& sources) {
#ifdef __CUDACC__
  std::vector<Item> items;
  for (size_t i = 0; i < targets.size(); ++i) {
    items.push_back({{targets[i].raw_data(), sources[i].raw_data()}, targets[i].numel()});
    targets[i].storage()->bump_version();
  }
  cuda::dispatch_floating(targets.front().dtype(), "add_into", [&]<class T>() {
    cuda::for_each_chunk(targets.front().device(), items, "additions", AddChunk<T>{});
  });
#endif
}

}  // namespace

void Additions::add(const Tensor& target, Tensor source) {
  const bool can_wait = target.is_cuda() && target.is_contiguous() && source.is_contiguous() &&
                        target.shape() == source.shape() && target.dtype() == source.dtype() &&
                        target.device() == source.device();
  const auto of_another_kind = [&](const Tensor& other) {
    return other.dtype() != target.dtype() || other.device() != target.device();
  };
  // The order of additions to one tensor stays, and those of a launch must not meet.
  if (waiting_.contains(target.impl()) || (!targets_.empty() && of_another_kind(targets_.front()))) finish();
  if (!can_wait) return add_into(target, source);
  waiting_.insert(target.impl());
  waiting_bytes_ += source.storage()->bytes();
  targets_.push_back(target);
  sources_.push_back(std::move(source));
  if (waiting_bytes_ > kMostWaiting) finish();
}

void Additions::finish() {
  if (!targets_.empty()) add_all_cuda(targets_, sources_);
  targets_.clear();
  sources_.clear();
  waiting_.clear();
  waiting_bytes_ = 0;
}

Tensor joined(const Tensors& parts) {
  CAMO_CHECK(!parts.empty(), "joined: needs at least one tensor");
  int64_t numbers = 0;
  for (const Tensor& part : parts) {
    CAMO_CHECK(part.dtype() == parts[0].dtype() && part.device() == parts[0].device(),
               "joined: tensors must have one dtype and device; got ", parts[0].dtype(), " on ", parts[0].device(),
               " and ", part.dtype(), " on ", part.device());
    numbers += part.numel();
  }
  const Tensor all = full({numbers}, -0.0, parts[0].dtype(), parts[0].device());
  Additions copies;  // onto -0, which leaves every number as it is
  int64_t at = 0;
  for (const Tensor& part : parts) {
    const Shape& shape = part.shape();
    copies.add(make_view(all, shape, shape.contiguous_strides(), at), part.detach());
    at += part.numel();
  }
  copies.finish();
  return all;
}

}  // namespace camo
