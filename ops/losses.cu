// Binary cross-entropy with logits: mean of softplus(x) - x * t, where softplus(x) = max(x, 0) + log(1 + exp(-|x|)).
//
// dx = (sigmoid(x) - t) / n * dy. Keeps x and t. Summed in double.
#include <numeric>

#include "ops/detail/in_f32.h"
#include "ops/detail/loss_checks.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/detail/vector_math.h"
#include "ops/losses.h"
#ifdef __CUDACC__
#include "ops/detail/loss_kernels.cuh"
#endif

namespace camo {
namespace {

constexpr int64_t kGrain = 8192;

template <class T>
double bce_sum(const T* x, const T* t, int64_t n) {
  std::vector<double> partial(static_cast<size_t>((n + kGrain - 1) / kGrain));
  parallel_blocks(n, kGrain, [&](int64_t index, int64_t begin, int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(detail::simd_softplus(x[i]) - x[i] * t[i]);
    partial[static_cast<size_t>(index)] = sum;
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

// --- CUDA ---

#ifdef __CUDACC__
/// Blocks take elements in turn; partial [blocks].
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    bce_partials_kernel(const T* x, const T* t, int64_t n, double* partial) {
  using A = cuda::Accumulator<T>;
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * cuda::kBlock + threadIdx.x; i < n; i += int64_t{gridDim.x} * cuda::kBlock) {
    const A logit = convert<A>(x[i]);
    sum += static_cast<double>(detail::loss_softplus(logit) - logit * convert<A>(t[i]));
  }
  sum = cuda::block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// One block.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock) bce_finish_kernel(const double* partial, int parts, int64_t n, T* y) {
  double sum = 0;
  for (int i = threadIdx.x; i < parts; i += cuda::kBlock) sum += partial[i];
  sum = cuda::block_sum(sum);
  if (threadIdx.x == 0) *y = convert<T>(static_cast<cuda::Accumulator<T>>(sum / static_cast<double>(n)));
}

template <class T>
struct BceGradient {
  using A = cuda::Accumulator<T>;
  const T *x, *t, *dy;
  A inverse_count;
  T* dx;
  __device__ void operator()(int64_t i) const {
    dx[i] = convert<T>((detail::loss_sigmoid(convert<A>(x[i])) - convert<A>(t[i])) * (convert<A>(*dy) * inverse_count));
  }
};
#endif

void bce_forward_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& t,
                      [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "bce_with_logits", [&]<class T>() {
    const int64_t parts = detail::loss_parts(x.numel());
    const Tensor partial = empty({parts}, f64, x.device());
    cudaStream_t stream = cuda::use(x.device());
    bce_partials_kernel<T><<<static_cast<unsigned>(parts), cuda::kBlock, 0, stream>>>(
        x.data<T>(), t.data<T>(), x.numel(), partial.data<double>());
    CAMO_LAUNCHED("bce_with_logits");
    bce_finish_kernel<T>
        <<<1, cuda::kBlock, 0, stream>>>(partial.data<double>(), static_cast<int>(parts), x.numel(), y.data<T>());
    CAMO_LAUNCHED("bce_with_logits");
  });
#endif
}

void bce_backward_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& t,
                       [[maybe_unused]] const Tensor& dy, [[maybe_unused]] const Tensor& dx) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "bce_with_logits", [&]<class T>() {
    using A = cuda::Accumulator<T>;
    cuda::for_each(x.device(), x.numel(), "bce_with_logits_backward",
                   BceGradient<T>{x.data<T>(), t.data<T>(), dy.data<T>(),
                                  static_cast<A>(1.0 / static_cast<double>(x.numel())), dx.data<T>()});
  });
#endif
}

struct BceWithLogitsNode final : Node {
  BceWithLogitsNode() : Node("bce_with_logits") {}
  Saved logits{this, "logits"}, target{this, "target"};

  Tensors backward(const Tensors& dy) override {
    const Tensor x = detail::dense(*logits), t = detail::dense(*target);
    Tensor dx = empty(x.shape(), x.dtype(), x.device());
    if (x.is_cuda()) {
      bce_backward_cuda(x, t, dy[0], dx);
      return {dx, {}};
    }
    dispatch_floating(x.dtype(), "bce_with_logits", [&]<class T>() {
      const T scale = static_cast<T>(dy[0].item() / static_cast<double>(x.numel()));
      const T *in = x.data<T>(), *wanted = t.data<T>();
      T* out = dx.data<T>();
      parallel_for(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) out[i] = (detail::simd_sigmoid(in[i]) - wanted[i]) * scale;
      });
    });
    return {dx, {}};
  }
};

}  // namespace

Tensor bce_with_logits(const Tensor& logits, const Tensor& target) {
  detail::check_loss_arguments("bce_with_logits", logits, target);
  detail::check_same_device("bce_with_logits", {logits, target});
  if (detail::needs_f32(logits)) {
    return detail::in_f32({logits, target}, logits.dtype(),
                          [](const Tensors& in) { return bce_with_logits(in[0], in[1]); });
  }
  const Tensor x = detail::dense(logits), t = detail::dense(target);
  Tensor y = empty({}, x.dtype(), x.device());
  if (x.is_cuda()) {
    bce_forward_cuda(x, t, y);
  } else {
    dispatch_floating(x.dtype(), "bce_with_logits", [&]<class T>() {
      *y.data<T>() = static_cast<T>(bce_sum(x.data<T>(), t.data<T>(), x.numel()) / static_cast<double>(x.numel()));
    });
  }
  if (auto* node = record<BceWithLogitsNode>(y, {logits, target})) {
    node->logits = logits;
    node->target = target;
  }
  return y;
}

}  // namespace camo
