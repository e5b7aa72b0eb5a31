// The norm of all gradients together, and clipping to it.
#include <cmath>

#include "core/parallel.h"
#include "nn/optim/adamw.h"

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

}  // namespace

double gradient_norm(const Tensors& parameters) {
  double total = 0;
  for (const Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) continue;
    const Tensor gradient = parameter.grad().is_contiguous() ? parameter.grad() : clone(parameter.grad());
    dispatch_floating(gradient.dtype(), "gradient_norm",
                      [&]<class T>() { total += sum_of_squares(gradient.data<T>(), gradient.numel()); });
  }
  return std::sqrt(total);
}

double clip_gradient_norm(const Tensors& parameters, double max_norm) {
  CAMO_CHECK(max_norm >= 0, "clip_gradient_norm: max_norm must not be negative; got ", max_norm);
  const double norm = gradient_norm(parameters);
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return norm;  // NaN does not return: it must reach the gradients, as in PyTorch
  for (const Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) continue;
    if (!parameter.grad().is_contiguous()) parameter.set_grad(clone(parameter.grad()));
    const Tensor& gradient = parameter.grad();
    dispatch_floating(gradient.dtype(), "clip_gradient_norm",
                      [&]<class T>() { scale(gradient.data<T>(), gradient.numel(), static_cast<T>(factor)); });
    gradient.storage()->bump_version();
  }
  return norm;
}

}  // namespace camo
