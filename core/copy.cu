// Raw copies, in-place sums and fills between tensors of any strides and devices: target[i] (+)= source[i].
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/autograd.h"
#include "core/half_arrays.h"
#include "core/strided_loop.h"
#include "core/tensor.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/index_fault.h"
#include "core/cuda/recording.h"
#endif
#ifdef __CUDACC__
#include "core/cuda/elementwise.cuh"
#endif

namespace camo {

namespace {

// --- CPU ---

template <class T>
constexpr bool kIs16Bit = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

template <class T, class S>
void copy_cpu(const Tensor& target, const Tensor& source) {
  T* const to = target.data<T>();
  const S* const from = source.data<S>();
  detail::strided_loop<2>(
      target.shape(), {target.strides(), source.strides()}, [=](int64_t count, const auto& offset, const auto& step) {
        T* t = to + offset[0];
        const S* s = from + offset[1];
        if (step[0] == 1 && step[1] == 1) {
          if constexpr (std::is_same_v<T, S>) std::memcpy(t, s, static_cast<size_t>(count) * sizeof(T));
          else if constexpr ((kIs16Bit<T> && std::is_same_v<S, float>) || (kIs16Bit<S> && std::is_same_v<T, float>))
            convert_array(s, t, count);
          else
            for (int64_t i = 0; i < count; ++i) t[i] = convert<T>(s[i]);
        } else {
          for (int64_t i = 0; i < count; ++i) t[i * step[0]] = convert<T>(s[i * step[1]]);
        }
      });
}

/// 16-bit sums are rounded once, from f32.
template <class T, class S>
T sum_of(T a, S b) {
  if constexpr (kIs16Bit<T>) return T(static_cast<float>(a) + static_cast<float>(b));
  else return a + static_cast<T>(b);
}

template <class T, class S>
void add_cpu(const Tensor& target, const Tensor& source) {
  T* const to = target.data<T>();
  const S* const from = source.data<S>();
  detail::strided_loop<2>(target.shape(), {target.strides(), source.strides()},
                          [=](int64_t count, const auto& offset, const auto& step) {
                            T* t = to + offset[0];
                            const S* s = from + offset[1];
                            if (step[0] == 1 && step[1] == 1) {
#pragma omp simd
                              for (int64_t i = 0; i < count; ++i) t[i] = sum_of(t[i], s[i]);
                            } else {
                              for (int64_t i = 0; i < count; ++i)
                                t[i * step[0]] = sum_of(t[i * step[0]], s[i * step[1]]);
                            }
                          });
}

template <class T>
void fill_cpu(const Tensor& target, T value) {
  T* const to = target.data<T>();
  detail::strided_loop<1>(target.shape(), {target.strides()}, [=](int64_t count, const auto& offset, const auto& step) {
    T* t = to + offset[0];
    if (step[0] == 1) std::fill_n(t, count, value);
    else
      for (int64_t i = 0; i < count; ++i) t[i * step[0]] = value;
  });
}

// --- CUDA ---

#ifdef __CUDACC__
struct AddElements {
  template <class A, class B>
  __device__ A operator()(A a, B b) const {
    return a + static_cast<A>(b);
  }
};

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};
#endif

#ifdef CAMO_WITH_CUDA
int64_t bytes_of(const Tensor& x) { return x.numel() * size_in_bytes(x.dtype()); }

/// From one GPU to another: behind the work that makes the source, before work that may write to its memory again.
void copy_between_gpus(const Tensor& target, const Tensor& source) {
  cuda::refuse_recording("a copy from another GPU");
  cudaStream_t from = cuda::use(source.device());
  cuda::Event ready;  // of the current device, as its stream is
  ready.record(from);
  cudaStream_t to = cuda::use(target.device());
  cuda::Event copied;
  ready.block(to);
  CAMO_CUDA(cudaMemcpyPeerAsync(target.raw_data(), target.device().index, source.raw_data(), source.device().index,
                                static_cast<size_t>(bytes_of(target)), to));
  copied.record(to);
  copied.block(from);
}

/// Between devices, or within one: contiguous on both sides, same dtype.
void copy_bytes(const Tensor& target, const Tensor& source) {
  if (target.is_cuda() && source.is_cuda() && target.device() != source.device())
    return copy_between_gpus(target, source);
  const Device device = target.is_cuda() ? target.device() : source.device();
  if (!target.is_cuda()) cuda::refuse_recording("a copy from the device to the host");
  if (!source.is_cuda()) cuda::refuse_recording("a copy from the host to the device");
  cudaStream_t stream = cuda::use(device);
  CAMO_CUDA(cudaMemcpyAsync(target.raw_data(), source.raw_data(), static_cast<size_t>(bytes_of(target)),
                            cudaMemcpyDefault, stream));
  // The host may change or free its side as soon as this returns.
  if (!target.is_cuda() || !source.is_cuda()) {
    CAMO_CUDA(cudaStreamSynchronize(stream));
    cuda::check_index_fault(device);
  }
}

/// Through contiguous copies on either side where needed.
void copy_across(const Tensor& target, const Tensor& source) {
  Tensor packed = source;
  if (!source.is_contiguous() || source.dtype() != target.dtype()) {
    packed = empty(source.shape(), target.dtype(), source.device());
    copy_into(packed, source);
  }
  if (target.is_contiguous()) return copy_bytes(target, packed);
  const Tensor landed = empty(target.shape(), target.dtype(), target.device());
  copy_bytes(landed, packed);
  copy_into(target, landed);
}
#endif

void copy_cuda([[maybe_unused]] const Tensor& target, [[maybe_unused]] const Tensor& source) {
#ifdef __CUDACC__
  if (target.device() != source.device()) return copy_across(target, source);
  if (target.dtype() == source.dtype() && target.is_contiguous() && source.is_contiguous())
    return copy_bytes(target, source);
  if (target.dtype() == source.dtype()) {
    return cuda::dispatch_bytes(size_in_bytes(target.dtype()), [&]<class T>() {
      cuda::elementwise<true, T, T>("copy", target, cuda::Identity{}, source);
    });
  }
  dispatch_all(target.dtype(), [&]<class T>() {
    dispatch_all(source.dtype(), [&]<class S>() {
      if constexpr (!std::is_same_v<T, S>) cuda::elementwise<false, T, S>("copy", target, cuda::Identity{}, source);
    });
  });
#endif
}

void add_cuda([[maybe_unused]] const Tensor& target, [[maybe_unused]] const Tensor& source) {
#ifdef __CUDACC__
  cuda::dispatch_floating(target.dtype(), "add_into", [&]<class T>() {
    const auto run = [&]<class S>() {
      cuda::elementwise<true, T, T, S>("add_into", target, AddElements{}, target, source);
    };
    if constexpr (std::is_same_v<T, float>) {
      if (source.dtype() == f16) return run.template operator()<Half>();
      if (source.dtype() == bf16) return run.template operator()<BFloat16>();
    }
    run.template operator()<T>();
  });
#endif
}

void fill_cuda([[maybe_unused]] const Tensor& target, [[maybe_unused]] double value) {
#ifdef __CUDACC__
  if (value == 0 && !std::signbit(value) && target.numel() > 0 && target.is_contiguous()) {
    CAMO_CUDA(cudaMemsetAsync(target.raw_data(), 0, static_cast<size_t>(bytes_of(target)), cuda::use(target.device())));
    return;
  }
  dispatch_all(target.dtype(), [&]<class T>() {
    using V = cuda::Value<T>;
    cuda::elementwise<false, T>("fill", target, Constant<V>{convert<V>(value)});
  });
#endif
}

/// Elements of an expanded tensor share memory: which of them stays would be a matter of chance.
void check_target(const Tensor& target, const char* op) {
  for (int i = 0; i < target.dims(); ++i) {
    CAMO_CHECK(target.strides()[i] != 0 || target.shape()[i] <= 1 || target.numel() == 0, op,
               ": the elements of the target must not share memory; got shape ", target.shape(), ", strides ",
               target.strides(), ", as expand() makes; write to a clone()");
  }
}

/// Of all elements of a tensor: offsets in its storage, in bytes, the last one exclusive.
std::pair<int64_t, int64_t> memory_range(const Tensor& x) {
  int64_t last = x.offset();
  for (int i = 0; i < x.dims(); ++i) last += (x.shape()[i] - 1) * x.strides()[i];
  return {x.offset() * size_in_bytes(x.dtype()), (last + 1) * size_in_bytes(x.dtype())};
}

/// Whether elements of x may lie where other elements of `target` are, so that writing them changes what is read next.
bool overlaps(const Tensor& target, const Tensor& x) {
  if (target.storage() != x.storage()) return false;
  if (target.offset() == x.offset() && target.strides() == x.strides() && target.dtype() == x.dtype()) return false;
  const auto [begin, end] = memory_range(target);
  const auto [x_begin, x_end] = memory_range(x);
  return begin < x_end && x_begin < end;
}

/// In-place changes are not recorded: those of recorded results would make their gradients wrong without a word.
void check_changeable(const Tensor& target, const char* op) {
  CAMO_CHECK(target.is_leaf() || !grad_enabled(), op,
             ": is not recorded, so a computed tensor that wants a gradient, here ", target.dtype(), " ",
             target.shape(), ", can't be changed; compute a new one, or change a detach()ed copy");
}

}  // namespace

void copy_into(const Tensor& target, const Tensor& source) {
  check_changeable(target, "copy");
  CAMO_CHECK(target.shape() == source.shape(), "copy: shapes must be equal; got ", target.shape(), " and ",
             source.shape());
  check_target(target, "copy");
  if (target.numel() > 0 && overlaps(target, source)) return copy_into(target, clone(source));
  if (target.numel() > 0) {
    if (target.is_cuda() || source.is_cuda()) {
      copy_cuda(target, source);
    } else {
      dispatch_all(target.dtype(), [&]<class T>() {
        dispatch_all(source.dtype(), [&]<class S>() { copy_cpu<T, S>(target, source); });
      });
    }
  }
  target.storage()->bump_version();
}

void add_into(const Tensor& target, const Tensor& source) {
  check_changeable(target, "add_into");
  const DType to = target.dtype(), from = source.dtype();
  const bool widens = to == f32 && (from == f16 || from == bf16);
  CAMO_CHECK(target.shape() == source.shape() && (to == from || widens) && target.device() == source.device(),
             "add_into: shapes, dtypes and devices must be equal, but for 16 bit added to f32; got ", target.shape(),
             " ", to, " ", target.device(), " and ", source.shape(), " ", from, " ", source.device());
  check_target(target, "add_into");
  if (target.numel() > 0 && overlaps(target, source)) return add_into(target, clone(source));
  if (target.is_cuda()) add_cuda(target, source);
  else if (widens && from == f16) add_cpu<float, Half>(target, source);
  else if (widens) add_cpu<float, BFloat16>(target, source);
  else if (to == f16) add_cpu<Half, Half>(target, source);
  else if (to == bf16) add_cpu<BFloat16, BFloat16>(target, source);
  else dispatch_floating(to, "add_into", [&]<class T>() { add_cpu<T, T>(target, source); });
  target.storage()->bump_version();
}

void fill(const Tensor& target, double value) {
  check_changeable(target, "fill");
  const bool fits = target.dtype() == i64  ? value >= -0x1p63 && value < 0x1p63
                    : target.dtype() == u8 ? value > -1 && value < 256
                                           : true;
  CAMO_CHECK(fits, "fill: the value must fit into ", target.dtype(), "; got ", value);
  if (target.is_cuda()) fill_cuda(target, value);
  else dispatch_all(target.dtype(), [&]<class T>() { fill_cpu<T>(target, convert<T>(value)); });
  target.storage()->bump_version();
}

}  // namespace camo
