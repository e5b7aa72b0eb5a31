// The k largest elements along the last axis, largest first, equal ones in order of position; NaN counts as largest.
//
// Gradient: dx = dvalues at the chosen places, 0 elsewhere. Saves the indices.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/autograd.h"
#include "core/parallel.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/shape_ops.h"
#ifdef __CUDACC__
#include "core/cuda/packs.cuh"
#endif

namespace camo {

namespace {

/// Whether element i, a, comes before element j, b: a total order, so that the result is unique.
template <class T>
CAMO_HOST_DEVICE bool comes_before(T a, int64_t i, T b, int64_t j) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return a_nan == b_nan ? i < j : a_nan;
  return a == b ? i < j : a > b;
}

/// The places of the k largest elements of a row in their order; `order` has room for `extent` places.
template <class T>
void rank(int64_t* order, const T* row, int64_t extent, int64_t k) {
  constexpr int64_t kInsertionLimit = 8;  // up to here insertion into a sorted list beats a heap
  const auto before = [row](int64_t i, int64_t j) { return comes_before(row[i], i, row[j], j); };
  if (k > kInsertionLimit) {
    std::iota(order, order + extent, 0);
    std::partial_sort(order, order + k, order + extent, before);
    return;
  }
  int64_t count = 0;
  for (int64_t i = 0; i < extent; ++i) {
    if (count == k && !before(i, order[k - 1])) continue;
    int64_t place = count < k ? count++ : k - 1;
    for (; place > 0 && before(i, order[place - 1]); --place) order[place] = order[place - 1];
    order[place] = i;
  }
}

template <class T>
void top_k_rows(T* values, int64_t* indices, const T* x, int64_t rows, int64_t extent, int64_t k) {
  parallel_for(rows, std::max<int64_t>(1, 4096 / extent), [=](int64_t begin, int64_t end) {
    std::vector<int64_t> order(static_cast<size_t>(extent));
    for (int64_t r = begin; r < end; ++r) {
      const T* const row = x + r * extent;
      rank(order.data(), row, extent, k);
      for (int64_t i = 0; i < k; ++i) {
        indices[r * k + i] = order[static_cast<size_t>(i)];
        values[r * k + i] = row[order[static_cast<size_t>(i)]];
      }
    }
  });
}

#ifdef __CUDACC__
/// A thread for each element: it counts the elements of its row that come before it, which is its place. The square of
/// the row's length in work, but without any order to keep: rows are short (the experts of a picture).
template <class T>
struct RankElement {
  T* values;
  int64_t* indices;
  const T* x;
  int64_t extent, k;

  __device__ void operator()(int64_t at) const {
    using V = cuda::Value<T>;
    const int64_t row = at / extent, i = at - row * extent;
    const V mine = convert<V>(x[at]);
    int64_t place = 0;
    for (int64_t j = 0; j < extent; ++j) place += comes_before(convert<V>(x[row * extent + j]), j, mine, i);
    if (place >= k) return;
    values[row * k + place] = x[at];
    indices[row * k + place] = i;
  }
};
#endif

void top_k_cuda([[maybe_unused]] const TopK& result, [[maybe_unused]] const Tensor& x, [[maybe_unused]] int64_t k) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "top_k", [&]<class T>() {
    cuda::for_each(x.device(), x.numel(), "top_k",
                   RankElement<T>{result.values.data<T>(), result.indices.data<int64_t>(), x.data<T>(), x.size(-1), k});
  });
#endif
}

struct TopKNode final : Node {
  explicit TopKNode(int64_t of) : Node("top_k"), extent(of) {}
  int64_t extent;
  Saved indices{this, "indices"};
  Tensors backward(const Tensors& dy) override { return {scatter_add(dy[0], -1, *indices, extent)}; }
};

}  // namespace

TopK top_k(const Tensor& x, int64_t k) {
  CAMO_CHECK(x.dims() >= 1, "top_k: x must have an axis; got ", x.shape());
  const int64_t extent = x.shape().back();
  CAMO_CHECK(0 <= k && k <= extent, "top_k: k must lie within the last extent of x; got k ", k, ", x ", x.shape());
  if (detail::needs_f32(x)) {
    Tensor indices;
    const Tensor values = detail::in_f32({x}, x.dtype(), [&](const Tensors& in) {
      const TopK wide = top_k(in[0], k);
      indices = wide.indices;
      return wide.values;
    });
    return {values, indices};
  }
  detail::check_computes(x, "top_k");
  const Tensor source = x.is_contiguous() ? x : clone(x);
  Shape shape = x.shape();
  shape[x.dims() - 1] = k;
  const TopK result{empty(shape, x.dtype(), x.device()), empty(shape, i64, x.device())};
  if (result.values.numel() > 0) {
    if (x.is_cuda()) {
      top_k_cuda(result, source, k);
    } else {
      dispatch_floating(x.dtype(), "top_k", [&]<class T>() {
        top_k_rows(result.values.data<T>(), result.indices.data<int64_t>(), source.data<T>(), x.numel() / extent,
                   extent, k);
      });
    }
  }
  if (auto* node = record<TopKNode>(result.values, {x}, extent)) node->indices = result.indices;
  return result;
}

}  // namespace camo
