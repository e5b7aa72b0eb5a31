// y = x / d along one axis, d = max(|x|, eps) with the Euclidean norm.
//
// dx = (dy - y * sum(dy * y)) / d where |x| > eps, dy / d elsewhere. Keeps y and 1 / d. Squares are summed in the dtype
// of x.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/rows.h"
#include "ops/normalization.h"

namespace camo {
namespace {

using detail::Slabs;

constexpr int64_t kChunk = 256;  // inner elements handled together: their sums stay in cache

/// Calls body(slab, first, last) for ranges of inner elements of each slab.
template <class Body>
void for_each_slab(int64_t outer, int64_t extent, int64_t inner, Body&& body) {
  const int64_t chunks = (inner + kChunk - 1) / kChunk;
  parallel_for(outer * chunks, detail::row_grain(extent * std::min(inner, kChunk)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * kChunk;
      body(i / chunks, first, std::min(inner, first + kChunk));
    }
  });
}

template <class T>
void normalize_slabs(const Slabs& x, double eps, T* y, T* inverse) {
  for_each_slab(x.outer, x.extent, x.inner, [&](int64_t slab, int64_t first, int64_t last) {
    const T* in = x.x.data<T>() + slab * x.outer_stride;
    T* out = y + slab * x.extent * x.inner;
    T* scale = inverse + slab * x.inner;
    if (x.inner == 1) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < x.extent; ++i) sum += in[i] * in[i];
      scale[0] = 1 / std::max(std::sqrt(sum), static_cast<T>(eps));
#pragma omp simd
      for (int64_t i = 0; i < x.extent; ++i) out[i] = in[i] * scale[0];
      return;
    }
    std::fill(scale + first, scale + last, T(0));
    for (int64_t i = 0; i < x.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) scale[j] += in[i * x.stride + j] * in[i * x.stride + j];
    }
    for (int64_t j = first; j < last; ++j) scale[j] = 1 / std::max(std::sqrt(scale[j]), static_cast<T>(eps));
    for (int64_t i = 0; i < x.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) out[i * x.inner + j] = in[i * x.stride + j] * scale[j];
    }
  });
}

template <class T>
void normalize_slabs_backward(const Slabs& y, const T* dy, const T* inverse, double eps, T* dx) {
  const T limit = 1 / static_cast<T>(eps);  // 1 / d there: the norm was at or below eps
  for_each_slab(y.outer, y.extent, y.inner, [&](int64_t slab, int64_t first, int64_t last) {
    const int64_t offset = slab * y.extent * y.inner, inner = y.inner;
    const T* out = y.x.data<T>() + offset;
    const T* g = dy + offset;
    T* grad = dx + offset;
    const T* scale = inverse + slab * inner;
    T dot[kChunk] = {};
    if (inner == 1) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < y.extent; ++i) sum += g[i] * out[i];
      dot[0] = scale[0] < limit ? sum : T(0);
#pragma omp simd
      for (int64_t i = 0; i < y.extent; ++i) grad[i] = (g[i] - out[i] * dot[0]) * scale[0];
      return;
    }
    for (int64_t i = 0; i < y.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) dot[j - first] += g[i * inner + j] * out[i * inner + j];
    }
    for (int64_t j = first; j < last; ++j) dot[j - first] = scale[j] < limit ? dot[j - first] : T(0);
    for (int64_t i = 0; i < y.extent; ++i) {
#pragma omp simd
      for (int64_t j = first; j < last; ++j) {
        grad[i * inner + j] = (g[i * inner + j] - out[i * inner + j] * dot[j - first]) * scale[j];
      }
    }
  });
}

struct L2NormalizeNode final : Node {
  L2NormalizeNode(int axis_, double eps_) : Node("l2_normalize"), axis(axis_), eps(eps_) {}
  Saved y{this, "y"}, inverse{this, "inverse"};
  int axis;
  double eps;

  Tensors backward(const Tensors& dy) override {
    Tensor dx = empty(y->shape(), y->dtype());
    const Tensor g = detail::dense(dy[0]);
    dispatch_floating(y->dtype(), "l2_normalize", [&]<class T>() {
      normalize_slabs_backward<T>(detail::as_slabs(*y, axis), g.data<T>(), inverse->data<T>(), eps, dx.data<T>());
    });
    return {dx};
  }
};

}  // namespace

Tensor l2_normalize(const Tensor& x, int axis, double eps) {
  axis = normalize_axis(axis, x.dims(), "l2_normalize");
  CAMO_CHECK(eps > 0, "l2_normalize: eps must be positive; got ", eps);
  Tensor inverse;
  Tensor y = dispatch_floating(x.dtype(), "l2_normalize", [&]<class T>() {
    const Slabs slabs = detail::as_slabs(x, axis);
    Tensor out = empty(x.shape(), x.dtype());
    inverse = empty({slabs.outer * slabs.inner}, x.dtype());
    normalize_slabs<T>(slabs, eps, out.data<T>(), inverse.data<T>());
    return out;
  });
  if (auto* node = record<L2NormalizeNode>(y, {x}, axis, eps)) {
    node->y = y;
    node->inverse = inverse;
  }
  return y;
}

}  // namespace camo
