// Losses that compare regions. p = sigmoid(logits), t the target; sums run over each image.
//
// iou_loss = 1 - mean(I / U) with I = sum(p t) + s, U = sum p + sum t - sum(p t) + s, and
// dice_loss = 1 - mean(I / U) with I = 2 sum(p t) + s, U = sum p + sum t + s. In both the gradient of I / U by p is
// linear in t: a + b t with a = -I / U^2 and b = 1 / U + I / U^2 (iou), 2 / U (dice). They keep logits, target, and a
// and b per image in double. Summed in double. The other losses are made of recorded operations.
#include <algorithm>
#include <cmath>

#include "ops/detail/gaussian_blur.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/loss_checks.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/detail/vector_math.h"
#include "ops/elementwise.h"
#include "ops/losses.h"
#include "ops/reduce.h"
#ifdef __CUDACC__
#include "ops/detail/loss_kernels.cuh"
#endif

namespace camo {
namespace {

constexpr int64_t kGrain = 8192;
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;  // stabilisers of SSIM for values in [0, 1]

enum class Overlap { iou, dice };

/// Sums over one image.
struct RegionSums {
  double p = 0, t = 0, pt = 0;
};

template <class T>
std::vector<RegionSums> region_sums(const Tensor& logits, const Tensor& target) {
  const int64_t images = logits.size(0), size = logits.numel() / images, blocks = (size + kGrain - 1) / kGrain;
  std::vector<RegionSums> partial(static_cast<size_t>(images * blocks));
  parallel_for(images * blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block % blocks * kGrain, end = std::min(size, begin + kGrain);
      const T* x = logits.data<T>() + block / blocks * size;
      const T* t = target.data<T>() + block / blocks * size;
      double sum_p = 0, sum_t = 0, sum_pt = 0;
#pragma omp simd reduction(+ : sum_p, sum_t, sum_pt)
      for (int64_t i = begin; i < end; ++i) {
        const T p = detail::simd_sigmoid(x[i]);
        sum_p += static_cast<double>(p);
        sum_t += static_cast<double>(t[i]);
        sum_pt += static_cast<double>(p) * static_cast<double>(t[i]);
      }
      partial[static_cast<size_t>(block)] = {sum_p, sum_t, sum_pt};
    }
  });
  std::vector<RegionSums> sums(static_cast<size_t>(images));
  for (size_t i = 0; i < partial.size(); ++i) {
    RegionSums& image = sums[i / static_cast<size_t>(blocks)];
    image.p += partial[i].p;
    image.t += partial[i].t;
    image.pt += partial[i].pt;
  }
  return sums;
}

/// An image's share of the loss, 1 - I / U, and its derivative by p: -(a + b t).
struct Score {
  double ratio, a, b;
};

CAMO_HOST_DEVICE inline Score score(const RegionSums& sums, Overlap kind, double smooth) {
  const bool iou = kind == Overlap::iou;
  const double shared = (iou ? sums.pt : 2 * sums.pt) + smooth;
  const double all = sums.p + sums.t - (iou ? sums.pt : 0) + smooth;
  const double a = -shared / (all * all);
  return {shared / all, a, iou ? 1 / all - a : 2 / all};
}

/// The loss; a and b of each image go to weights [N, 2].
double score_images(const std::vector<RegionSums>& sums, Overlap kind, double smooth, double* weights) {
  double total = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const Score image = score(sums[i], kind, smooth);
    total += image.ratio;
    weights[2 * i] = image.a;
    weights[2 * i + 1] = image.b;
  }
  return 1 - total / static_cast<double>(sums.size());
}

/// dx = scale * (a + b t) p (1 - p), scale = -dy / N.
template <class T>
void region_backward(const Tensor& x, const Tensor& t, const double* weights, double scale, const Tensor& dx) {
  const int64_t images = x.size(0), size = x.numel() / images;
  for (int64_t image = 0; image < images; ++image) {
    const T a = static_cast<T>(scale * weights[2 * image]), b = static_cast<T>(scale * weights[2 * image + 1]);
    const T *in = x.data<T>() + image * size, *wanted = t.data<T>() + image * size;
    T* out = dx.data<T>() + image * size;
    parallel_for(size, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const T p = detail::simd_sigmoid(in[i]);
        out[i] = (a + b * wanted[i]) * p * (1 - p);
      }
    });
  }
}

// --- CUDA ---

#ifdef __CUDACC__
/// Grid (parts, images): the blocks of an image take its elements in turn; partial [images, parts].
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    region_partials_kernel(const T* x, const T* t, int64_t size, RegionSums* partial) {
  using A = cuda::Accumulator<T>;
  const int64_t start = blockIdx.y * size;
  double sum_p = 0, sum_t = 0, sum_pt = 0;
  for (int64_t i = int64_t{blockIdx.x} * cuda::kBlock + threadIdx.x; i < size; i += int64_t{gridDim.x} * cuda::kBlock) {
    const double p = static_cast<double>(detail::loss_sigmoid(convert<A>(x[start + i])));
    const double wanted = static_cast<double>(convert<A>(t[start + i]));
    sum_p += p;
    sum_t += wanted;
    sum_pt += p * wanted;
  }
  sum_p = cuda::block_sum(sum_p);
  sum_t = cuda::block_sum(sum_t);
  sum_pt = cuda::block_sum(sum_pt);
  if (threadIdx.x != 0) return;
  RegionSums& to = partial[int64_t{blockIdx.y} * gridDim.x + blockIdx.x];
  to.p = sum_p;
  to.t = sum_t;
  to.pt = sum_pt;
}

/// One block, a thread for each image in turn.
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    region_finish_kernel(const RegionSums* partial, int64_t images, int parts, Overlap kind, double smooth,
                         double* weights, T* y) {
  double total = 0;
  for (int64_t image = threadIdx.x; image < images; image += cuda::kBlock) {
    RegionSums sums;
    for (int part = 0; part < parts; ++part) {
      const RegionSums& from = partial[image * parts + part];
      sums.p += from.p;
      sums.t += from.t;
      sums.pt += from.pt;
    }
    const Score result = score(sums, kind, smooth);
    total += result.ratio;
    weights[2 * image] = result.a;
    weights[2 * image + 1] = result.b;
  }
  total = cuda::block_sum(total);
  if (threadIdx.x == 0) {
    *y = convert<T>(static_cast<cuda::Accumulator<T>>(1 - total / static_cast<double>(images)));
  }
}

/// Grid (blocks, images).
template <class T>
__global__ void __launch_bounds__(cuda::kBlock)
    region_backward_kernel(const T* x, const T* t, int64_t size, const double* weights, const T* dy, T* dx) {
  using A = cuda::Accumulator<T>;
  const double scale = -static_cast<double>(convert<A>(*dy)) / gridDim.y;
  const A a = static_cast<A>(scale * weights[2 * blockIdx.y]), b = static_cast<A>(scale * weights[2 * blockIdx.y + 1]);
  const int64_t start = blockIdx.y * size;
  for (int64_t i = int64_t{blockIdx.x} * cuda::kBlock + threadIdx.x; i < size; i += int64_t{gridDim.x} * cuda::kBlock) {
    const A p = detail::loss_sigmoid(convert<A>(x[start + i]));
    dx[start + i] = convert<T>((a + b * convert<A>(t[start + i])) * p * (1 - p));
  }
}
#endif

void region_forward_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& t,
                         [[maybe_unused]] Overlap kind, [[maybe_unused]] double smooth,
                         [[maybe_unused]] const Tensor& weights, [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  const int64_t images = x.size(0), size = x.numel() / images;
  // Few parts: one thread adds those of an image.
  const int64_t parts = std::min<int64_t>(64, detail::loss_parts(size));
  const Tensor scratch = empty({images, parts, 3}, f64, x.device());
  auto* partial = reinterpret_cast<RegionSums*>(scratch.data<double>());
  cudaStream_t stream = cuda::use(x.device());
  cuda::dispatch_floating(x.dtype(), "region_loss", [&]<class T>() {
    region_partials_kernel<T>
        <<<dim3(static_cast<unsigned>(parts), static_cast<unsigned>(images)), cuda::kBlock, 0, stream>>>(
            x.data<T>(), t.data<T>(), size, partial);
    CAMO_LAUNCHED("region_loss");
    region_finish_kernel<T><<<1, cuda::kBlock, 0, stream>>>(partial, images, static_cast<int>(parts), kind, smooth,
                                                            weights.data<double>(), y.data<T>());
    CAMO_LAUNCHED("region_loss");
  });
#endif
}

void region_backward_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& t,
                          [[maybe_unused]] const Tensor& weights, [[maybe_unused]] const Tensor& dy,
                          [[maybe_unused]] const Tensor& dx) {
#ifdef __CUDACC__
  const int64_t images = x.size(0), size = x.numel() / images;
  const dim3 grid(static_cast<unsigned>(detail::loss_parts(size)), static_cast<unsigned>(images));
  cudaStream_t stream = cuda::use(x.device());
  cuda::dispatch_floating(x.dtype(), "region_loss", [&]<class T>() {
    region_backward_kernel<T><<<grid, cuda::kBlock, 0, stream>>>(x.data<T>(), t.data<T>(), size, weights.data<double>(),
                                                                 dy.data<T>(), dx.data<T>());
    CAMO_LAUNCHED("region_loss_backward");
  });
#endif
}

struct RegionLossNode final : Node {
  explicit RegionLossNode(const char* op) : Node(op) {}
  Saved logits{this, "logits"}, target{this, "target"}, weights{this, "weights"};

  Tensors backward(const Tensors& dy) override {
    const Tensor x = detail::dense(*logits), t = detail::dense(*target);
    Tensor dx = empty(x.shape(), x.dtype(), x.device());
    if (x.is_cuda()) {
      region_backward_cuda(x, t, *weights, dy[0], dx);
    } else {
      const double scale = -dy[0].item() / static_cast<double>(x.size(0));
      dispatch_floating(x.dtype(), name().c_str(),
                        [&]<class T>() { region_backward<T>(x, t, weights->data<double>(), scale, dx); });
    }
    return {dx, {}};
  }
};

Tensor region_loss(const char* op, const Tensor& logits, const Tensor& target, double smooth, Overlap kind) {
  detail::check_loss_arguments(op, logits, target);
  CAMO_CHECK(logits.dims() >= 1, op, ": logits must be [N, ...]; got logits ", logits.shape());
  CAMO_CHECK(smooth > 0, op, ": smooth must be positive; got ", smooth);
  detail::check_same_device(op, {logits, target});
  CAMO_CHECK(logits.size(0) <= 65535 || !logits.is_cuda(), op, ": at most 65535 images on CUDA; got logits ",
             logits.shape());
  if (detail::needs_f32(logits)) {
    return detail::in_f32({logits, target}, logits.dtype(),
                          [&](const Tensors& in) { return region_loss(op, in[0], in[1], smooth, kind); });
  }
  const Tensor x = detail::dense(logits), t = detail::dense(target);
  Tensor y = empty({}, x.dtype(), x.device());
  const Tensor weights = empty({x.size(0), 2}, f64, x.device());
  if (x.is_cuda()) {
    region_forward_cuda(x, t, kind, smooth, weights, y);
  } else {
    dispatch_floating(x.dtype(), op, [&]<class T>() {
      *y.data<T>() = static_cast<T>(score_images(region_sums<T>(x, t), kind, smooth, weights.data<double>()));
    });
  }
  if (auto* node = record<RegionLossNode>(y, {logits, target}, op)) {
    node->logits = logits;
    node->target = target;
    node->weights = weights;
  }
  return y;
}

/// 1 - mean of (2 mu_p mu_t + c1)(2 cov + c2) / ((mu_p^2 + mu_t^2 + c1)(var_p + var_t + c2)).
Tensor ssim_loss(const Tensor& mu_p, const Tensor& mu_t, const Tensor& var_p, const Tensor& var_t, const Tensor& cov) {
  const Tensor shared = (mu_p * mu_t * 2 + kC1) * (cov * 2 + kC2);
  const Tensor all = (square(mu_p) + square(mu_t) + kC1) * (var_p + var_t + kC2);
  return 1.0 - mean(shared / all);
}

}  // namespace

Tensor iou_loss(const Tensor& logits, const Tensor& target, double smooth) {
  return region_loss("iou_loss", logits, target, smooth, Overlap::iou);
}

Tensor dice_loss(const Tensor& logits, const Tensor& target, double smooth) {
  return region_loss("dice_loss", logits, target, smooth, Overlap::dice);
}

Tensor edge_loss(const Tensor& logits, const Tensor& target, double eps) {
  detail::check_loss_arguments("edge_loss", logits, target);
  detail::check_map("edge_loss", logits);
  return mean(square(edge_magnitude(sigmoid(logits), eps) - edge_magnitude(target, eps)));
}

Tensor global_ssim_loss(const Tensor& logits, const Tensor& target) {
  detail::check_loss_arguments("global_ssim_loss", logits, target);
  detail::check_map("global_ssim_loss", logits);
  const Tensor p = sigmoid(logits);
  const Tensor mu_p = mean(p, {1, 2}, true), mu_t = mean(target, {1, 2}, true);
  const Tensor centred_p = p - mu_p, centred_t = target - mu_t;
  return ssim_loss(mu_p, mu_t, mean(square(centred_p), {1, 2}, true), mean(square(centred_t), {1, 2}, true),
                   mean(centred_p * centred_t, {1, 2}, true));
}

Tensor windowed_ssim_loss(const Tensor& logits, const Tensor& target, int64_t window) {
  detail::check_loss_arguments("windowed_ssim_loss", logits, target);
  detail::check_map("windowed_ssim_loss", logits);
  CAMO_CHECK(window > 0 && window % 2 == 1, "windowed_ssim_loss: window must be odd; got ", window);
  const auto blur = [&](const Tensor& x) { return detail::gaussian_blur(x, window, 1.5); };
  const Tensor p = sigmoid(logits);
  const Tensor mu_p = blur(p), mu_t = blur(target);
  return ssim_loss(mu_p, mu_t, blur(square(p)) - square(mu_p), blur(square(target)) - square(mu_t),
                   blur(p * target) - mu_p * mu_t);
}

}  // namespace camo
