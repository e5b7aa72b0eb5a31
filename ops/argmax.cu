// argmax: y = the position of the first largest element along one axis; the first NaN counts as largest. No gradient.
#include "core/autograd.h"
#include "core/parallel.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/reduce.h"
#ifdef __CUDACC__
#include "core/cuda/kernels.cuh"
#endif

namespace camo {

namespace {

/// Whether `value` beats `largest`, which stands before it.
template <class T>
CAMO_HOST_DEVICE bool beats(T value, T largest) {
  return value > largest || (value != value && largest == largest);
}

template <class T>
void argmax_cpu(int64_t* out, const T* in, int64_t outer, int64_t extent, int64_t inner) {
  parallel_for(outer * inner, std::max<int64_t>(1, 16384 / extent), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const run = in + (i / inner) * extent * inner + i % inner;
      int64_t best = 0;
      for (int64_t k = 1; k < extent; ++k) {
        if (beats(run[k * inner], run[best * inner])) best = k;
      }
      out[i] = best;
    }
  });
}

#ifdef __CUDACC__
/// A warp for each output: its lanes take every 32nd element, then compare their winners.
template <class T>
__global__ void argmax_kernel(int64_t* out, const T* in, int64_t count, int64_t extent, int64_t inner) {
  const int lane = threadIdx.x % cuda::kWarp;
  const int64_t step = int64_t{gridDim.x} * blockDim.x / cuda::kWarp;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / cuda::kWarp; i < count; i += step) {
    const T* const run = in + (i / inner) * extent * inner + i % inner;
    int64_t best = lane < extent ? lane : 0;
    for (int64_t k = lane + cuda::kWarp; k < extent; k += cuda::kWarp) {
      if (beats(run[k * inner], run[best * inner])) best = k;
    }
    for (int offset = cuda::kWarp / 2; offset > 0; offset /= 2) {
      const int64_t other = __shfl_xor_sync(~0u, best, offset);
      const T mine = run[best * inner], theirs = run[other * inner];
      const bool equal = !beats(theirs, mine) && !beats(mine, theirs);
      if (equal ? other < best : beats(theirs, mine)) best = other;
    }
    if (lane == 0) out[i] = best;
  }
}
#endif

void argmax_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x, [[maybe_unused]] int64_t extent,
                 [[maybe_unused]] int64_t inner) {
#ifdef __CUDACC__
  if (y.numel() == 0) return;
  const auto launch = [&]<class T>() {
    argmax_kernel<<<cuda::grid_for(y.numel() * cuda::kWarp, y.device()), cuda::kBlock, 0, cuda::use(y.device())>>>(
        y.data<int64_t>(), x.data<T>(), y.numel(), extent, inner);
    CAMO_LAUNCHED("argmax");
  };
  if (x.dtype() == f64) launch.template operator()<double>();
  else if (x.dtype() == i64) launch.template operator()<int64_t>();
  else launch.template operator()<float>();
#endif
}

}  // namespace

Tensor argmax(const Tensor& x, int axis, bool keep_dims) {
  const int at = normalize_axis(axis, x.dims(), "argmax");
  const int64_t extent = x.shape()[at];
  CAMO_CHECK(extent > 0, "argmax: the reduced axes must not be empty; got x ", x.shape());
  Shape result = x.shape();
  result[at] = 1;
  if (!keep_dims) result.erase(at);
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < at; ++i) outer *= x.shape()[i];
  for (int i = at + 1; i < x.dims(); ++i) inner *= x.shape()[i];
  if (x.is_cuda()) {
    if (x.dtype() != i64) detail::check_computes(x, "argmax");
    const DType wide = x.dtype() == f64 || x.dtype() == i64 ? x.dtype() : f32;
    Tensor source = x;
    if (!x.is_contiguous() || x.dtype() != wide) {
      source = empty(x.shape(), wide, x.device());
      copy_into(source, x);
    }
    const Tensor y = empty(result, i64, x.device());
    argmax_cuda(y, source, extent, inner);
    return y;
  }
  if (detail::needs_f32(x)) return argmax(detail::in_f32(x), axis, keep_dims);
  return detail::dispatch_arithmetic(x.dtype(), "argmax", [&]<class T>() {
    const Tensor source = x.is_contiguous() ? x : clone(x);
    const Tensor y = empty(result, i64, x.device());
    argmax_cpu(y.data<int64_t>(), source.data<T>(), outer, extent, inner);
    return y;
  });
}

}  // namespace camo
