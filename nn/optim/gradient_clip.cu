// The norm of all gradients together, and unscaling and clipping in one pass. Sums of squares are taken in double, in
// chunks whose sums are added in order: the result is the same in every run. On CUDA the factor never leaves the
// device.
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "nn/optim/adamw.h"
#ifdef __CUDACC__
#include "core/cuda/multi_tensor.cuh"
#endif

namespace camo {
namespace {

constexpr int64_t kBlock = 1 << 14;
constexpr int kLanes = 16;  // sums side by side, for vector instructions

/// Sum of squares in double, in blocks: the same for every number of threads.
template <class T>
double sum_of_squares(const T* x, int64_t n) {
  std::vector<double> partial(static_cast<size_t>((n + kBlock - 1) / kBlock));
  parallel_blocks(n, kBlock, [&](int64_t index, int64_t begin, int64_t end) {
    double lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const double value = x[i + lane];
        lanes[lane] += value * value;
      }
    }
    double sum = 0;
    for (; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (double lane : lanes) sum += lane;
    partial[static_cast<size_t>(index)] = sum;
  });
  double total = 0;
  for (double sum : partial) total += sum;
  return total;
}

template <class T>
void scale(T* x, int64_t n, T factor) {
  parallel_for(n, kBlock, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) x[i] *= factor;
  });
}

/// A NaN stays one: it must reach the gradients, as in PyTorch.
CAMO_HOST_DEVICE double clip_factor(double norm, double max_norm) {
  constexpr double kNormFloor = 1e-6;
  const double ratio = max_norm / (norm + kNormFloor);
  return ratio >= 1 ? 1 : ratio;
}

#ifdef __CUDACC__
struct NoExtra {};
using GradientItem = cuda::MultiTensorItem<1, NoExtra>;

/// partial[chunk] = the sum of squares of a chunk.
template <class T>
struct SquaresOfChunk {
  double* partial;

  struct Body {
    const T* x;
    double& sum;
    template <int N>
    __device__ void operator()(int64_t i) const {
      const auto pack = *reinterpret_cast<const cuda::Pack<T, N>*>(x + i);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const double value = convert<double>(pack.values[k]);
        sum += value * value;
      }
    }
  };

  __device__ void operator()(const GradientItem& item, int64_t begin, int64_t end, uint32_t chunk) const {
    double sum = 0;
    cuda::for_each_pack<T>(item, begin, end, Body{static_cast<const T*>(item.pointers[0]), sum});
    sum = cuda::block_sum(sum);
    if (threadIdx.x == 0) partial[chunk] = sum;
  }
};

/// One block: norm = unscale * the root of the sum of all partial sums, factor = unscale * min(1, max_norm / (norm +
/// floor)).
__global__ void __launch_bounds__(cuda::kBlock)
    gradient_norm_kernel(const double* partial, int64_t count, double max_norm, double unscale, double* norm,
                         double* factor) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += cuda::kBlock) sum += partial[i];
  sum = cuda::block_sum(sum);
  if (threadIdx.x == 0) {
    *norm = unscale * sqrt(sum);
    *factor = unscale * clip_factor(*norm, max_norm);
  }
}

template <class T>
struct ScaleChunk {
  const double* factor;

  struct Body {
    T* x;
    cuda::Accumulator<T> factor;
    template <int N>
    __device__ void operator()(int64_t i) const {
      auto* const at = reinterpret_cast<cuda::Pack<T, N>*>(x + i);
      auto pack = *at;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        pack.values[k] = convert<T>(convert<cuda::Accumulator<T>>(pack.values[k]) * factor);
      }
      *at = pack;
    }
  };

  __device__ void operator()(const GradientItem& item, int64_t begin, int64_t end, uint32_t) const {
    if (*factor >= 1) return;  // NaN does not return
    cuda::for_each_pack<T>(item, begin, end,
                           Body{static_cast<T*>(item.pointers[0]), static_cast<cuda::Accumulator<T>>(*factor)});
  }
};

/// Gradients of one dtype, as the kernels take them.
struct GradientList {
  DType dtype;
  std::vector<GradientItem> items;
};
#endif

/// Without gaps, copied where need be.
Tensors dense_gradients(const Tensors& parameters, const char* op) {
  Tensors gradients;
  for (const Tensor& parameter : parameters) {
    const Tensor& gradient = parameter.grad();
    if (!gradient.defined()) continue;
    gradients.push_back(gradient.is_contiguous() ? gradient : clone(gradient));
    CAMO_CHECK(gradient.device() == gradients.front().device(), op, ": gradients must lie on one device; got ",
               gradients.front().device(), " and ", gradient.device());
  }
  return gradients;
}

/// The norm as an element on the device; the gradients stay as they are when `max_norm` is infinite and `unscale` 1.
Tensor clip_cuda([[maybe_unused]] const Tensors& gradients, [[maybe_unused]] double max_norm,
                 [[maybe_unused]] double unscale) {
#ifdef __CUDACC__
  const Device device = gradients.front().device();
  std::vector<GradientList> lists;
  for (const DType dtype : {f32, f64, f16, bf16}) lists.push_back({dtype, {}});
  int64_t chunks = 0;
  for (const Tensor& gradient : gradients) {
    for (GradientList& list : lists) {
      if (list.dtype == gradient.dtype()) list.items.push_back({{gradient.raw_data()}, gradient.numel()});
    }
  }
  for (const GradientList& list : lists) chunks += cuda::chunk_count(list.items);
  const Tensor partial = empty({chunks}, f64, device), norm = empty({}, f64, device), factor = empty({}, f64, device);
  double* sums = partial.data<double>();
  for (const GradientList& list : lists) {
    cuda::dispatch_floating(list.dtype, "gradient_norm", [&]<class T>() {
      cuda::for_each_chunk(device, list.items, "gradient_norm_partial", SquaresOfChunk<T>{sums});
    });
    sums += cuda::chunk_count(list.items);
  }
  gradient_norm_kernel<<<1, cuda::kBlock, 0, cuda::use(device)>>>(partial.data<double>(), chunks, max_norm, unscale,
                                                                  norm.data<double>(), factor.data<double>());
  CAMO_LAUNCHED("gradient_norm");
  if (std::isinf(max_norm) && unscale == 1) return norm;
  for (const GradientList& list : lists) {
    cuda::dispatch_floating(list.dtype, "clip_gradients", [&]<class T>() {
      cuda::for_each_chunk(device, list.items, "clip_gradients", ScaleChunk<T>{factor.data<double>()});
    });
  }
  for (const Tensor& gradient : gradients) gradient.storage()->bump_version();
  return norm;
#else
  return {};
#endif
}

double norm_cpu(const Tensors& gradients) {
  double total = 0;
  for (const Tensor& gradient : gradients) {
    dispatch_floating(gradient.dtype(), "gradient_norm",
                      [&]<class T>() { total += sum_of_squares(gradient.data<T>(), gradient.numel()); });
  }
  return std::sqrt(total);
}

double clip_cpu(const Tensors& gradients, double max_norm, double unscale) {
  const double norm = unscale * norm_cpu(gradients);
  const double factor = unscale * clip_factor(norm, max_norm);
  if (factor >= 1) return norm;  // NaN does not return
  for (const Tensor& gradient : gradients) {
    dispatch_floating(gradient.dtype(), "clip_gradient_norm",
                      [&]<class T>() { scale(gradient.data<T>(), gradient.numel(), static_cast<T>(factor)); });
    gradient.storage()->bump_version();
  }
  return norm;
}

}  // namespace

double gradient_norm(const Tensors& parameters) {
  const Tensors gradients = dense_gradients(parameters, "gradient_norm");
  if (gradients.empty() || !gradients.front().is_cuda()) return norm_cpu(gradients);
  return clip_cuda(gradients, std::numeric_limits<double>::infinity(), 1).item();
}

Tensor clip_gradients(const Tensors& parameters, double max_norm, double unscale) {
  CAMO_CHECK(max_norm >= 0, "clip_gradient_norm: max_norm must not be negative; got ", max_norm);
  CAMO_CHECK(unscale > 0 && unscale <= 1, "clip_gradients: unscale must be in (0, 1]; got ", unscale);
  const Tensors gradients = dense_gradients(parameters, "clip_gradients");
  for (size_t i = 0, at = 0; i < parameters.size(); ++i) {  // they are scaled in place
    if (parameters[i].grad().defined()) parameters[i].set_grad(gradients[at++]);
  }
  if (!gradients.empty() && gradients.front().is_cuda()) return clip_cuda(gradients, max_norm, unscale);
  return full({}, clip_cpu(gradients, max_norm, unscale), f64, cpu);
}

double clip_gradient_norm(const Tensors& parameters, double max_norm) {
  return clip_gradients(parameters, max_norm).item();
}

}  // namespace camo
