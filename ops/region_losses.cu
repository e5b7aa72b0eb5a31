// Losses that compare regions. p = sigmoid(logits), t the target; sums run over each image.
//
// iou_loss = 1 - mean(I / U) with I = sum(p t) + s, U = sum p + sum t - sum(p t) + s, and
// dice_loss = 1 - mean(I / U) with I = 2 sum(p t) + s, U = sum p + sum t + s. In both the gradient of I / U by p is
// linear in t: a + b t with a = -I / U^2 and b = 1 / U + I / U^2 (iou), 2 / U (dice). They keep logits, target, and a
// and b per image. Summed in double. The other losses are made of recorded operations.
#include <algorithm>
#include <cmath>

#include "ops/detail/gaussian_blur.h"
#include "ops/detail/loss_checks.h"
#include "ops/detail/rows.h"
#include "ops/detail/vector_math.h"
#include "ops/elementwise.h"
#include "ops/losses.h"
#include "ops/reduce.h"

namespace camo {
namespace {

constexpr int64_t kBlock = 8192;
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;  // stabilisers of SSIM for values in [0, 1]

enum class Overlap { iou, dice };

/// Sums over one image.
struct RegionSums {
  double p = 0, t = 0, pt = 0;
};

template <class T>
std::vector<RegionSums> region_sums(const Tensor& logits, const Tensor& target) {
  const int64_t images = logits.size(0), size = logits.numel() / images, blocks = (size + kBlock - 1) / kBlock;
  std::vector<RegionSums> partial(static_cast<size_t>(images * blocks));
  parallel_for(images * blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block % blocks * kBlock, end = std::min(size, begin + kBlock);
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

Score score(const RegionSums& sums, Overlap kind, double smooth) {
  const bool iou = kind == Overlap::iou;
  const double shared = (iou ? sums.pt : 2 * sums.pt) + smooth;
  const double all = sums.p + sums.t - (iou ? sums.pt : 0) + smooth;
  const double a = -shared / (all * all);
  return {shared / all, a, iou ? 1 / all - a : 2 / all};
}

struct RegionLossNode final : Node {
  explicit RegionLossNode(const char* op) : Node(op) {}
  Saved logits{this, "logits"}, target{this, "target"};
  std::vector<Score> scores;  // one an image

  Tensors backward(const Tensors& dy) override {
    const Tensor x = detail::dense(*logits), t = detail::dense(*target);
    Tensor dx = empty(x.shape(), x.dtype());
    const int64_t size = x.numel() / x.size(0);
    const double scale = -dy[0].item() / static_cast<double>(scores.size());
    dispatch_floating(x.dtype(), name().c_str(), [&]<class T>() {
      for (size_t image = 0; image < scores.size(); ++image) {
        const T a = static_cast<T>(scale * scores[image].a), b = static_cast<T>(scale * scores[image].b);
        const int64_t start = static_cast<int64_t>(image) * size;
        const T *in = x.data<T>() + start, *wanted = t.data<T>() + start;
        T* out = dx.data<T>() + start;
        parallel_for(size, kBlock, [&](int64_t begin, int64_t end) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) {
            const T p = detail::simd_sigmoid(in[i]);
            out[i] = (a + b * wanted[i]) * p * (1 - p);
          }
        });
      }
    });
    return {dx, {}};
  }
};

Tensor region_loss(const char* op, const Tensor& logits, const Tensor& target, double smooth, Overlap kind) {
  detail::check_loss_arguments(op, logits, target);
  CAMO_CHECK(logits.dims() >= 1, op, ": logits must be [N, ...]; got logits ", logits.shape());
  CAMO_CHECK(smooth > 0, op, ": smooth must be positive; got ", smooth);
  const auto sums = dispatch_floating(
      logits.dtype(), op, [&]<class T>() { return region_sums<T>(detail::dense(logits), detail::dense(target)); });
  std::vector<Score> scores;
  double total = 0;
  for (const RegionSums& image : sums) {
    scores.push_back(score(image, kind, smooth));
    total += scores.back().ratio;
  }
  Tensor y = full({}, 1 - total / static_cast<double>(scores.size()), logits.dtype());
  if (auto* node = record<RegionLossNode>(y, {logits, target}, op)) {
    node->logits = logits;
    node->target = target;
    node->scores = std::move(scores);
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
