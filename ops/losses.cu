// Binary cross-entropy with logits: mean of softplus(x) - x * t, where softplus(x) = max(x, 0) + log(1 + exp(-|x|)).
//
// dx = (sigmoid(x) - t) / n * dy. Keeps x and t. Summed in double.
#include <numeric>

#include "ops/detail/loss_checks.h"
#include "ops/detail/rows.h"
#include "ops/detail/vector_math.h"
#include "ops/losses.h"

namespace camo {
namespace {

constexpr int64_t kBlock = 8192;

template <class T>
double bce_sum(const T* x, const T* t, int64_t n) {
  std::vector<double> partial(static_cast<size_t>((n + kBlock - 1) / kBlock));
  parallel_blocks(n, kBlock, [&](int64_t index, int64_t begin, int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(detail::simd_softplus(x[i]) - x[i] * t[i]);
    partial[static_cast<size_t>(index)] = sum;
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

struct BceWithLogitsNode final : Node {
  BceWithLogitsNode() : Node("bce_with_logits") {}
  Saved logits{this, "logits"}, target{this, "target"};

  Tensors backward(const Tensors& dy) override {
    const Tensor x = detail::dense(*logits), t = detail::dense(*target);
    Tensor dx = empty(x.shape(), x.dtype());
    dispatch_floating(x.dtype(), "bce_with_logits", [&]<class T>() {
      const T scale = static_cast<T>(dy[0].item() / static_cast<double>(x.numel()));
      const T *in = x.data<T>(), *wanted = t.data<T>();
      T* out = dx.data<T>();
      parallel_for(x.numel(), kBlock, [&](int64_t begin, int64_t end) {
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
  const double loss = dispatch_floating(logits.dtype(), "bce_with_logits", [&]<class T>() {
    const Tensor x = detail::dense(logits), t = detail::dense(target);
    return bce_sum(x.data<T>(), t.data<T>(), x.numel()) / static_cast<double>(x.numel());
  });
  Tensor y = full({}, loss, logits.dtype());
  if (auto* node = record<BceWithLogitsNode>(y, {logits, target})) {
    node->logits = logits;
    node->target = target;
  }
  return y;
}

}  // namespace camo
