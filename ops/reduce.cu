// Reductions. x is read row-major; neighbouring axes that are both kept or both reduced count as one, and each group of
// reduced axes takes one pass of [outer, reduced, inner] -> [outer, inner], the last group first.
//
//   sum, sum_to   dx = dy, broadcast                            saves nothing
//   mean          dx = dy / count, broadcast                    saves nothing
//   max, min      dx = dy / (number of equal ones) where x = y  saves x, y
//   norm          dx = dy x / y, 0 where y = 0                  saves x, y
//
// All floating types accumulate in double within a pass; on CUDA results between passes are double as well.
#include <cmath>

#include "core/autograd.h"
#include "core/strided_loop.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/reduce_loops.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#ifdef __CUDACC__
#include "core/cuda/elementwise.cuh"
#include "ops/detail/reduce_device.cuh"
#endif

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

/// What becomes of each result.
struct Finish {
  double divisor = 1;
  bool root = false;
};

/// `first` is the source of the first pass, over elements of shape `shape` in row-major order.
template <class Reducer, class T, class Source>
void reduce_cpu(const Tensor& y, Source first, const Shape& shape, const std::array<bool, Shape::kMaxDims>& reduced,
                Finish finish = {}) {
  T* const out = y.data<T>();
  if (y.numel() == 0) return;
  if (shape.numel() == 0) {
    std::fill_n(out, y.numel(), static_cast<T>(Reducer::identity()));
    return;
  }
  const std::vector<detail::Pass> passes = detail::plan_passes(shape, reduced);
  Tensor input;  // the result of the pass before
  for (size_t i = 0; i < passes.size(); ++i) {
    const auto [outer, extent, inner] = passes[i];
    const Tensor output = i + 1 == passes.size() ? y : empty({outer * inner}, y.dtype(), cpu);
    if (i == 0) detail::reduce_middle<Reducer>(output.data<T>(), first, outer, extent, inner);
    else detail::reduce_middle<Reducer>(output.data<T>(), detail::Elements<T>{input.data<T>()}, outer, extent, inner);
    input = output;
  }
  if (finish.divisor != 1)
    for (int64_t i = 0; i < y.numel(); ++i) out[i] = static_cast<T>(static_cast<double>(out[i]) / finish.divisor);
  if (finish.root)
    for (int64_t i = 0; i < y.numel(); ++i) out[i] = static_cast<T>(std::sqrt(out[i]));
}

#ifdef __CUDACC__
template <template <class> class Reducer, class T, class Source, class Done>
void reduce_cuda(const Tensor& y, Source first, const Shape& shape, const std::array<bool, Shape::kMaxDims>& reduced,
                 Done done, const char* op) {
  using Acc = typename Reducer<typename Source::Value>::Acc;
  if (y.numel() == 0) return;
  if (shape.numel() == 0) return fill(y, 0);  // only sums have empty ranges
  const detail::StoreResult<T, Done> result{y.data<T>(), done};
  const std::vector<detail::Pass> passes = detail::plan_passes(shape, reduced);
  const auto [outer, extent, inner] = passes[0];
  if (passes.size() == 1) {
    return detail::reduce_middle_cuda<Reducer>(y.device(), first, result, outer, extent, inner, op);
  }
  const auto make = [&](const detail::Pass& pass) {
    return empty({pass.outer, pass.inner}, dtype_of<Acc>, y.device());
  };
  using Store = detail::StoreResult<Acc, detail::Keep>;
  Tensor input = make(passes[0]);  // the result of the pass before
  detail::reduce_middle_cuda<Reducer>(y.device(), first, Store{input.data<Acc>(), {}}, outer, extent, inner, op);
  for (size_t i = 1; i < passes.size(); ++i) {
    const detail::Pass& pass = passes[i];
    const detail::DeviceElements<Acc> source{input.data<Acc>()};
    if (i + 1 == passes.size()) {
      return detail::reduce_again_cuda<Reducer>(y.device(), source, result, pass.outer, pass.extent, pass.inner, op);
    }
    const Tensor output = make(pass);
    detail::reduce_again_cuda<Reducer>(y.device(), source, Store{output.data<Acc>(), {}}, pass.outer, pass.extent,
                                       pass.inner, op);
    input = output;
  }
}
#endif

/// A contiguous tensor outside of any graph.
Tensor row_major(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

template <template <class> class Reducer>
void reduce_elements_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x,
                          [[maybe_unused]] const std::array<bool, Shape::kMaxDims>& reduced,
                          [[maybe_unused]] double divisor, [[maybe_unused]] const char* op) {
#ifdef __CUDACC__
  cuda::dispatch_arithmetic(x.dtype(), op, [&]<class T>() {
    const detail::DeviceElements<T> source{x.data<T>()};
    constexpr bool is_sum = std::is_same_v<Reducer<float>, detail::SumReducer<float>>;
    if constexpr (is_sum && !std::is_same_v<T, int64_t>)
      reduce_cuda<Reducer, T>(y, source, x.shape(), reduced, detail::DivideBy{divisor}, op);
    else reduce_cuda<Reducer, T>(y, source, x.shape(), reduced, detail::Keep{}, op);
  });
#endif
}

void norm_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x,
               [[maybe_unused]] const std::array<bool, Shape::kMaxDims>& reduced) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "norm", [&]<class T>() {
    reduce_cuda<detail::SumReducer, T>(y, detail::DeviceSquares<T>{x.data<T>()}, x.shape(), reduced,
                                       detail::SquareRoot{}, "norm");
  });
#endif
}

void sum_products_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& a,
                       [[maybe_unused]] const Tensor& b,
                       [[maybe_unused]] const std::array<bool, Shape::kMaxDims>& reduced) {
#ifdef __CUDACC__
  cuda::dispatch_floating(a.dtype(), "mul", [&]<class T>() {
    reduce_cuda<detail::SumReducer, T>(y, detail::DeviceProducts<T>{a.data<T>(), b.data<T>()}, a.shape(), reduced,
                                       detail::DivideBy{1}, "mul");
  });
#endif
}

/// The reduction of x to a tensor of shape `result`, divided by `divisor`; the axes are marked in `reduced`.
template <template <class> class Reducer>
Tensor reduce(const Tensor& x, const Shape& result, const std::array<bool, Shape::kMaxDims>& reduced, const char* op,
              double divisor = 1) {
  const auto prepare = [&] { return std::pair(row_major(x), empty(result, x.dtype(), x.device())); };
  if (x.is_cuda()) {
    CAMO_CHECK(is_floating(x.dtype()) || x.dtype() == i64, op, ": computes in floating dtypes and i64; got ", x.dtype(),
               "; convert with to(x, f32)");
    const auto [source, y] = prepare();
    reduce_elements_cuda<Reducer>(y, source, reduced, divisor, op);
    return y;
  }
  if (detail::needs_f32(x)) {
    return detail::rounded_to(reduce<Reducer>(detail::in_f32(x), result, reduced, op, divisor), x.dtype());
  }
  return detail::dispatch_arithmetic(x.dtype(), op, [&]<class T>() -> Tensor {
    const auto [source, y] = prepare();
    reduce_cpu<Reducer<T>, T>(y, detail::Elements<T>{source.template data<T>()}, x.shape(), reduced, {divisor});
    return y;
  });
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

#ifdef __CUDACC__
struct IsEqual {
  template <class T>
  __device__ T operator()(T p, T q) const {
    return T(p == q);
  }
};
struct OverLength {
  template <class T>
  __device__ T operator()(T d, T length) const {
    return length == T(0) ? T(0) : d / length;
  }
};
#endif

/// 1 where x is y, else 0.
void mark_equal_cuda([[maybe_unused]] const Tensor& marks, [[maybe_unused]] const Tensor& x,
                     [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  cuda::dispatch_floating(x.dtype(), "max",
                          [&]<class T>() { cuda::elementwise<true, T, T, T>("max", marks, IsEqual{}, x, y); });
#endif
}

/// dy / y, 0 where y is 0
void scale_of_norm_cuda([[maybe_unused]] const Tensor& scale, [[maybe_unused]] const Tensor& dy,
                        [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  cuda::dispatch_floating(y.dtype(), "norm",
                          [&]<class T>() { cuda::elementwise<false, T, T, T>("norm", scale, OverLength{}, dy, y); });
#endif
}

struct ExtremumOverAxesNode final : Node {
  ExtremumOverAxesNode(const char* name, Shape with_ones) : Node(name), kept(with_ones) {}
  Shape kept;
  Saved x{this, "x"}, y{this, "y"};

  Tensors backward(const Tensors& dy) override {
    const Tensor is_extreme = empty_like(*x);
    if (x->is_cuda()) mark_equal_cuda(is_extreme, *x, with_kept_axes(*y, kept));
    else copy_into(is_extreme, equal(*x, with_kept_axes(*y, kept)));
    const bool is_16_bit = size_in_bytes(x->dtype()) == 2;  // f16 counts to 65504, bf16 to 256
    const Tensor wide_dy = is_16_bit ? to(dy[0], f32) : dy[0];
    const Tensor count = sum_to(is_16_bit ? to(is_extreme, f32) : is_extreme, kept);
    const Tensor share = to(div(with_kept_axes(wide_dy, kept), count), dy[0].dtype());
    return {mul(is_extreme, share)};
  }
};

template <template <class> class Reducer>
Tensor extremum(const Tensor& x, const Shape& over, bool keep_dims, const char* op) {
  const Axes axes(x, over, keep_dims, op);
  axes.check_not_empty(x, op);
  const Tensor y = reduce<Reducer>(x, axes.result, axes.reduced, op);
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
    if (y->is_cuda()) scale_of_norm_cuda(scale, dy[0], *y);
    else
      dispatch_floating(y->dtype(), "norm", [&]<class T>() {
        detail::map<T, T>(scale, dy[0], *y, [](T d, T length) { return length == 0 ? T(0) : d / length; });
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
  const Tensor y = reduce<detail::SumReducer>(x, over.result, over.reduced, "sum");
  record<SumNode>(y, {x}, "sum", over.kept, x.shape());
  return y;
}

Tensor mean(const Tensor& x, const Shape& axes, bool keep_dims) {
  const Axes over(x, axes, keep_dims, "mean");
  over.check_not_empty(x, "mean");
  if (!detail::needs_f32(x)) detail::check_computes(x, "mean");
  const Tensor y = reduce<detail::SumReducer>(x, over.result, over.reduced, "mean", static_cast<double>(over.count));
  record<MeanNode>(y, {x}, over.kept, x.shape(), over.count);
  return y;
}

Tensor max(const Tensor& x, const Shape& axes, bool keep_dims) {
  return extremum<detail::MaxReducer>(x, axes, keep_dims, "max");
}

Tensor min(const Tensor& x, const Shape& axes, bool keep_dims) {
  return extremum<detail::MinReducer>(x, axes, keep_dims, "min");
}

Tensor norm(const Tensor& x, const Shape& axes, bool keep_dims) {
  const Axes over(x, axes, keep_dims, "norm");
  if (detail::needs_f32(x)) {
    return detail::in_f32({x}, x.dtype(), [&](const Tensors& in) { return norm(in[0], axes, keep_dims); });
  }
  detail::check_computes(x, "norm");
  const Tensor source = row_major(x);
  const Tensor y = empty(over.result, x.dtype(), x.device());
  if (x.is_cuda()) {
    norm_cuda(y, source, over.reduced);
  } else {
    dispatch_floating(x.dtype(), "norm", [&]<class T>() {
      reduce_cpu<detail::SumReducer<T>, T>(y, detail::Squares<T>{source.data<T>()}, x.shape(), over.reduced,
                                           {.root = true});
    });
  }
  if (auto* node = record<NormNode>(y, {x}, over.kept)) {
    node->x = x;
    node->y = y;
  }
  return y;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  CAMO_CHECK(shape.size() <= x.dims() && broadcast_shapes(x.shape(), shape, "sum_to") == x.shape(),
             "sum_to: the shape must broadcast to x's; got ", shape, ", x ", x.shape());
  const Tensor y = reduce<detail::SumReducer>(x, shape, axes_to_sum(x.shape(), shape), "sum_to");
  Shape kept = shape;
  while (kept.size() < x.dims()) kept.insert(0, 1);
  record<SumNode>(y, {x}, "sum_to", kept, x.shape());
  return y;
}

Tensor detail::sum_product_to(const Tensor& a, const Tensor& b, const Shape& shape) {
  const NoGrad no_grad;
  if (needs_f32(a)) return rounded_to(sum_product_to(in_f32(a), in_f32(b), shape), a.dtype());
  if (a.shape() == shape || a.shape() != b.shape() || !a.is_contiguous() || !b.is_contiguous()) {
    return sum_to(mul(a, b), shape);
  }
  const Tensor y = empty(shape, a.dtype(), a.device());
  const auto reduced = axes_to_sum(a.shape(), shape);
  if (a.is_cuda()) {
    sum_products_cuda(y, a, b, reduced);
  } else {
    dispatch_floating(a.dtype(), "mul", [&]<class T>() {
      reduce_cpu<SumReducer<T>, T>(y, Products<T>{a.data<T>(), b.data<T>()}, a.shape(), reduced);
    });
  }
  return y;
}

}  // namespace camo
