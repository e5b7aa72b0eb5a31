// y[i] = x[i] / (1 - p) where key.uniform(i) >= p, else 0;  dx likewise from dy. Keeps nothing: the mask is drawn
// again.
#include "core/autograd.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/dropout.h"
#ifdef __CUDACC__
#include "core/cuda/packs.cuh"
#include "core/cuda/recording.h"
#endif

namespace camo {
namespace {

template <class T>
void drop(const Tensor& x, double p, RandomKey key, const Tensor& y) {
  const T* in = x.data<T>();
  T* out = y.data<T>();
  const int64_t n = x.numel();
  const auto limit = static_cast<float>(p);
  const T scale = p < 1 ? static_cast<T>(1 / (1 - p)) : T(0);
  const auto keep = [&](T value, uint32_t word) { return uniform_from_bits(word) < limit ? T(0) : value * scale; };
  // One call of the generator makes four numbers.
  parallel_for((n + 3) / 4, 1024, [&](int64_t begin, int64_t end) {
    const int64_t whole = std::min(end, n / 4);
#pragma omp simd
    for (int64_t group = begin; group < whole; ++group) {
      const auto words = philox(key.seed, static_cast<uint64_t>(group), key.stream);
      out[4 * group] = keep(in[4 * group], words[0]);
      out[4 * group + 1] = keep(in[4 * group + 1], words[1]);
      out[4 * group + 2] = keep(in[4 * group + 2], words[2]);
      out[4 * group + 3] = keep(in[4 * group + 3], words[3]);
    }
    for (int64_t i = std::max(begin, whole) * 4; i < std::min(n, 4 * end); ++i) {
      out[i] = keep(in[i], key.bits(static_cast<uint64_t>(i)));
    }
  });
}

#ifdef __CUDACC__
/// A thread for each group of four elements, which share one call of the generator.
template <class T, bool kPacked>
struct DropGroup {
  T* y;
  const T* x;
  int64_t count;
  float limit;
  cuda::Value<T> scale;
  cuda::KernelKey drawn;

  __device__ T keep(T value, uint32_t word) const {
    using V = cuda::Value<T>;
    return convert<T>(uniform_from_bits(word) < limit ? V(0) : convert<V>(value) * scale);
  }
  __device__ void operator()(int64_t group) const {
    const RandomKey key = drawn.now();
    const auto words = philox(key.seed, static_cast<uint64_t>(group), key.stream);
    const int64_t first = 4 * group;
    if (kPacked && first + 4 <= count) {
      auto pack = cuda::load_pack<4>(x + first);
#pragma unroll
      for (int i = 0; i < 4; ++i) pack.values[i] = keep(pack.values[i], words[i]);
      cuda::store_pack<4>(y + first, pack);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first + i < count) y[first + i] = keep(x[first + i], words[i]);
      }
    }
  }
};
#endif

void drop_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x, [[maybe_unused]] double p,
               [[maybe_unused]] RandomKey key) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    T* const out = y.data<T>();
    const T* const in = x.data<T>();
    const int64_t count = x.numel();
    const auto scale = static_cast<cuda::Value<T>>(p < 1 ? 1 / (1 - p) : 0);
    const auto run = [&]<bool kPacked>() {
      cuda::for_each(x.device(), (count + 3) / 4, "dropout",
                     DropGroup<T, kPacked>{out, in, count, static_cast<float>(p), scale, cuda::kernel_key(key)});
    };
    if (cuda::is_aligned(in, 4 * sizeof(T)) && cuda::is_aligned(out, 4 * sizeof(T))) run.template operator()<true>();
    else run.template operator()<false>();
  });
#endif
}

Tensor dropped(const Tensor& x, double p, RandomKey key) {
  if (x.is_cuda()) {
    CAMO_CHECK(is_floating(x.dtype()), "dropout: computes in floating dtypes; got ", x.dtype());
    const Tensor y = empty_like(x);
    drop_cuda(y, detail::dense(x), p, key);
    return y;
  }
  if (detail::needs_f32(x)) return detail::rounded_to(dropped(detail::in_f32(x), p, key), x.dtype());
  return dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    Tensor y = empty_like(x);
    drop<T>(detail::dense(x), p, key, y);
    return y;
  });
}

struct DropoutNode final : Node {
  DropoutNode(double p_, RandomKey key_) : Node("dropout"), p(p_), key(key_) {}
  double p;
  RandomKey key;

  Tensors backward(const Tensors& dy) override { return {dropped(dy[0], p, key)}; }
};

}  // namespace

Tensor dropout(const Tensor& x, double p, RandomKey key) {
  CAMO_CHECK(p >= 0 && p <= 1, "dropout: p must be in [0, 1]; got ", p);
  Tensor y = dropped(x, p, key);
  record<DropoutNode>(y, {x}, p, key);
  return y;
}

Tensor dropout(const Tensor& x, double p, bool training) {
  CAMO_CHECK(p >= 0 && p <= 1, "dropout: p must be in [0, 1]; got ", p);
  if (p == 0 || !training) return x;
  return dropout(x, p, default_generator().next());
}

}  // namespace camo
