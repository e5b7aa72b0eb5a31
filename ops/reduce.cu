// Reductions. x is read row-major; neighbouring axes that are both kept or both reduced count as one, and each group of
// reduced axes takes one pass of [outer, reduced, inner] -> [outer, inner], the last group first.
//
//   sum, sum_to   dx = dy, broadcast                            saves nothing
//   mean          dx = dy / count, broadcast                    saves nothing
//   max, min      dx = dy / (number of equal ones) where x = y  saves x, y
//   norm          dx = dy x / y, 0 where y = 0                  saves x, y
//
// f32 accumulates in double within a pass.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/reduce_loops.h"
#include "core/strided_loop.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

/// Which axes are reduced, and the shapes with and without them.
struct Axes {
  std::array<bool, Shape::kMaxDims> reduced{};
  Shape kept;    // reduced axes have extent 1
  Shape result;  // as asked for
  int64_t count = 1;

  Axes(const Tensor& x, const Shape& axes, bool keep_dims, const char* op) {
    if (axes.empty()) reduced.fill(true);
    for (int64_t axis : axes) {
      bool& flag = reduced[static_cast<size_t>(normalize_axis(axis, x.dims(), op))];
      CAMO_CHECK(!flag, op, ": an axis must not be repeated; got axes ", axes, ", x ", x.shape());
      flag = true;
    }
    for (int i = 0; i < x.dims(); ++i) {
      const bool is_reduced = reduced[static_cast<size_t>(i)];
      if (is_reduced) count *= x.shape()[i];
      kept.push_back(is_reduced ? 1 : x.shape()[i]);
      if (!is_reduced || keep_dims) result.push_back(kept[i]);
    }
  }

  void check_not_empty(const Tensor& x, const char* op) const {
    CAMO_CHECK(count > 0, op, ": the reduced axes must not be empty; got x ", x.shape());
  }
};

/// Runs the passes; `first` is the source of the first one, over elements of shape `shape` in row-major order.
template <class Reducer, class T, class Source>
void reduce_passes(const Tensor& y, Source first, const Shape& shape,
                   const std::array<bool, Shape::kMaxDims>& reduced) {
  T* const out = y.data<T>();
  if (y.numel() == 0) return;
  if (shape.numel() == 0) {
    std::fill_n(out, y.numel(), static_cast<T>(Reducer::identity()));
    return;
  }
  Shape extents;  // of groups of neighbours, alternately kept and reduced
  std::vector<bool> is_reduced;
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] == 1) continue;
    const bool flag = reduced[static_cast<size_t>(i)];
    if (!extents.empty() && is_reduced.back() == flag) {
      extents[extents.size() - 1] *= shape[i];
    } else {
      extents.push_back(shape[i]);
      is_reduced.push_back(flag);
    }
  }
  const int passes = static_cast<int>(std::count(is_reduced.begin(), is_reduced.end(), true));
  if (passes == 0) return detail::reduce_middle<Reducer>(out, first, y.numel(), 1, 1);
  Tensor input;  // the result of the pass before
  for (int pass = 0; pass < passes; ++pass) {
    int group = extents.size() - 1;
    while (!is_reduced[static_cast<size_t>(group)]) --group;
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < group; ++i) outer *= extents[i];
    for (int i = group + 1; i < extents.size(); ++i) inner *= extents[i];
    const int64_t extent = extents[group];
    const Tensor output = pass == passes - 1 ? y : empty({outer * inner}, y.dtype(), y.device());
    if (pass == 0) detail::reduce_middle<Reducer>(output.data<T>(), first, outer, extent, inner);
    else detail::reduce_middle<Reducer>(output.data<T>(), detail::Elements<T>{input.data<T>()}, outer, extent, inner);
    input = output;
    extents.erase(group);
    is_reduced.erase(is_reduced.begin() + group);
  }
}

/// A contiguous tensor outside of any graph.
Tensor row_major(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

template <template <class> class Reducer>
Tensor reduce(const Tensor& x, const Axes& axes, const char* op) {
  return detail::dispatch_arithmetic(x.dtype(), op, [&]<class T>() {
    const Tensor source = row_major(x);
    const Tensor y = empty(axes.result, x.dtype(), x.device());
    reduce_passes<Reducer<T>, T>(y, detail::Elements<T>{source.data<T>()}, x.shape(), axes.reduced);
    return y;
  });
}

/// Changes the elements of a fresh contiguous tensor.
template <class T, class Fn>
void change(const Tensor& y, Fn fn) {
  T* const data = y.data<T>();
  for (int64_t i = 0; i < y.numel(); ++i) data[i] = static_cast<T>(fn(data[i]));
}

/// A view of a gradient with the reduced axes back as extents of 1.
Tensor with_kept_axes(const Tensor& y, const Shape& kept) { return reshape(y, kept); }

struct SumNode final : Node {  // also sum_to
  SumNode(const char* name, Shape with_ones, Shape x_shape) : Node(name), kept(with_ones), shape(x_shape) {}
  Shape kept, shape;
  Tensors backward(const Tensors& dy) override { return {expand(with_kept_axes(dy[0], kept), shape)}; }
};

struct MeanNode final : Node {
  MeanNode(Shape with_ones, Shape x_shape, int64_t of) : Node("mean"), kept(with_ones), shape(x_shape), count(of) {}
  Shape kept, shape;
  int64_t count;
  Tensors backward(const Tensors& dy) override {
    return {expand(with_kept_axes(mul(dy[0], 1.0 / static_cast<double>(count)), kept), shape)};
  }
};

struct ExtremumOverAxesNode final : Node {
  ExtremumOverAxesNode(const char* name, Shape with_ones) : Node(name), kept(with_ones) {}
  Shape kept;
  Saved x{this, "x"}, y{this, "y"};

  Tensors backward(const Tensors& dy) override {
    const Tensor is_extreme = empty_like(*x);
    dispatch_floating(x->dtype(), name().c_str(), [&]<class T>() {
      detail::map<T, T>(is_extreme, *x, with_kept_axes(*y, kept), [](T p, T q) { return T(p == q); });
    });
    const Tensor share = div(with_kept_axes(dy[0], kept), sum_to(is_extreme, kept));
    return {mul(is_extreme, share)};
  }
};

template <template <class> class Reducer>
Tensor extremum(const Tensor& x, const Shape& over, bool keep_dims, const char* op) {
  const Axes axes(x, over, keep_dims, op);
  axes.check_not_empty(x, op);
  const Tensor y = reduce<Reducer>(x, axes, op);
  if (auto* node = record<ExtremumOverAxesNode>(y, {x}, op, axes.kept)) {
    node->x = x;
    node->y = y;
  }
  return y;
}

struct NormNode final : Node {
  explicit NormNode(Shape with_ones) : Node("norm"), kept(with_ones) {}
  Shape kept;
  Saved x{this, "x"}, y{this, "y"};

  Tensors backward(const Tensors& dy) override {
    const Tensor scale = empty_like(*y);
    dispatch_floating(y->dtype(), "norm", [&]<class T>() {
      detail::map<T, T>(scale, dy[0], *y, [](T d, T length) { return length > 0 ? d / length : T(0); });
    });
    return {mul(*x, with_kept_axes(scale, kept))};
  }
};

/// Flags of the axes of x, aligned at the end, that summing to `shape` reduces.
std::array<bool, Shape::kMaxDims> axes_to_sum(const Shape& x, const Shape& shape) {
  std::array<bool, Shape::kMaxDims> reduced{};
  const int lead = x.size() - shape.size();
  for (int i = 0; i < x.size(); ++i) reduced[static_cast<size_t>(i)] = i < lead || (shape[i - lead] == 1 && x[i] != 1);
  return reduced;
}

}  // namespace

Tensor sum(const Tensor& x, const Shape& axes, bool keep_dims) {
  const Axes over(x, axes, keep_dims, "sum");
  const Tensor y = reduce<detail::SumReducer>(x, over, "sum");
  record<SumNode>(y, {x}, "sum", over.kept, x.shape());
  return y;
}

Tensor mean(const Tensor& x, const Shape& axes, bool keep_dims) {
  const Axes over(x, axes, keep_dims, "mean");
  over.check_not_empty(x, "mean");
  return dispatch_floating(x.dtype(), "mean", [&]<class T>() {
    const Tensor y = reduce<detail::SumReducer>(x, over, "mean");
    change<T>(y, [count = static_cast<double>(over.count)](T value) { return static_cast<double>(value) / count; });
    record<MeanNode>(y, {x}, over.kept, x.shape(), over.count);
    return y;
  });
}

Tensor max(const Tensor& x, const Shape& axes, bool keep_dims) {
  return extremum<detail::MaxReducer>(x, axes, keep_dims, "max");
}

Tensor min(const Tensor& x, const Shape& axes, bool keep_dims) {
  return extremum<detail::MinReducer>(x, axes, keep_dims, "min");
}

Tensor norm(const Tensor& x, const Shape& axes, bool keep_dims) {
  const Axes over(x, axes, keep_dims, "norm");
  return dispatch_floating(x.dtype(), "norm", [&]<class T>() {
    const Tensor source = row_major(x);
    const Tensor y = empty(over.result, x.dtype(), x.device());
    reduce_passes<detail::SumReducer<T>, T>(y, detail::Squares<T>{source.data<T>()}, x.shape(), over.reduced);
    change<T>(y, [](T value) { return std::sqrt(value); });
    if (auto* node = record<NormNode>(y, {x}, over.kept)) {
      node->x = x;
      node->y = y;
    }
    return y;
  });
}

Tensor argmax(const Tensor& x, int axis, bool keep_dims) {
  const Axes over(x, {axis}, keep_dims, "argmax");
  over.check_not_empty(x, "argmax");
  return detail::dispatch_arithmetic(x.dtype(), "argmax", [&]<class T>() {
    const Tensor source = row_major(x);
    const Tensor y = empty(over.result, i64, x.device());
    const int at = normalize_axis(axis, x.dims(), "argmax");
    int64_t inner = 1;
    for (int i = at + 1; i < x.dims(); ++i) inner *= x.shape()[i];
    const T* const in = source.data<T>();
    int64_t* const out = y.data<int64_t>();
    const int64_t extent = over.count;
    parallel_for(y.numel(), std::max<int64_t>(1, 16384 / extent), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* const run = in + (i / inner) * extent * inner + i % inner;
        int64_t best = 0;
        for (int64_t k = 1; k < extent; ++k) {
          const T value = run[k * inner], largest = run[best * inner];
          if (value > largest || (value != value && largest == largest)) best = k;  // the first NaN wins
        }
        out[i] = best;
      }
    });
    return y;
  });
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  CAMO_CHECK(shape.size() <= x.dims() && broadcast_shapes(x.shape(), shape, "sum_to") == x.shape(),
             "sum_to: the shape must broadcast to x's; got ", shape, ", x ", x.shape());
  return detail::dispatch_arithmetic(x.dtype(), "sum_to", [&]<class T>() {
    const Tensor source = row_major(x);
    const Tensor y = empty(shape, x.dtype(), x.device());
    reduce_passes<detail::SumReducer<T>, T>(y, detail::Elements<T>{source.data<T>()}, x.shape(),
                                            axes_to_sum(x.shape(), shape));
    Shape kept = shape;
    while (kept.size() < x.dims()) kept.insert(0, 1);
    record<SumNode>(y, {x}, "sum_to", kept, x.shape());
    return y;
  });
}

Tensor detail::sum_product_to(const Tensor& a, const Tensor& b, const Shape& shape) {
  const NoGrad no_grad;
  if (a.shape() == shape || a.shape() != b.shape() || !a.is_contiguous() || !b.is_contiguous()) {
    return sum_to(mul(a, b), shape);
  }
  return dispatch_floating(a.dtype(), "mul", [&]<class T>() {
    const Tensor y = empty(shape, a.dtype(), a.device());
    reduce_passes<SumReducer<T>, T>(y, Products<T>{a.data<T>(), b.data<T>()}, a.shape(), axes_to_sum(a.shape(), shape));
    return y;
  });
}

}  // namespace camo
