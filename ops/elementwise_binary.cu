// Binary elementwise operations with broadcasting. The gradient of a broadcast operand is summed to its shape.
//
//   add, sub           da = dy, db = +-dy              saves nothing
//   mul                da = dy b, db = dy a            saves the other operand of each one that needs a gradient
//   div                da = dy / b, db = -da y         saves b and y
//   maximum, minimum   dy goes to the chosen one, half to each where they are equal; saves a and b
//   where              dy goes to x where the condition holds, else to y; saves the condition
//
// The 16-bit types compute in float.
#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "core/strided_loop.h"
#include "ops/detail/autocast.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#ifdef __CUDACC__
#include "core/cuda/elementwise.cuh"
#endif

namespace camo {

namespace {

struct Sum {
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p + q;
  }
};
struct Difference {
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p - q;
  }
};
struct Product {
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p * q;
  }
};
struct Quotient {
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p / q;
  }
};
// NaN wins.
struct Larger {
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p > q || p != p ? p : q;
  }
};
struct Smaller {
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    return p < q || p != p ? p : q;
  }
};
// The first operand's share of the gradient of an extremum; NaN was chosen, the first one of two.
struct ShareOfFirst {
  static constexpr bool kHasIntegers = false;
  bool larger;
  template <class T>
  CAMO_HOST_DEVICE T operator()(T p, T q) const {
    if (p != p || q != q) return p != p ? T(1) : T(0);
    return p == q ? T(0.5) : (p > q) == larger ? T(1) : T(0);
  }
};
struct IsGreater {
  template <class T>
  CAMO_HOST_DEVICE bool operator()(T p, T q) const {
    return p > q;
  }
};
struct IsGreaterOrEqual {
  template <class T>
  CAMO_HOST_DEVICE bool operator()(T p, T q) const {
    return p >= q;
  }
};
struct IsEqual {
  template <class T>
  CAMO_HOST_DEVICE bool operator()(T p, T q) const {
    return p == q;
  }
};

#ifdef __CUDACC__
struct Choose {
  template <class T>
  __device__ T operator()(bool condition, T x, T y) const {
    return condition ? x : y;
  }
};

struct AddProduct {
  template <class T>
  __device__ T operator()(T sum, T p, T q) const {
    return sum + p * q;
  }
};

template <class Number>
struct IsAbove {
  Number limit;
  template <class T>
  __device__ bool operator()(T value) const {
    return convert<Number>(value) > limit;
  }
};
#endif

/// Operands of one dtype: under Autocast of the wider one.
std::pair<Tensor, Tensor> promoted(Tensor a, Tensor b) {
  detail::autocast_promote(a, b);
  return {std::move(a), std::move(b)};
}

/// A fresh tensor for the broadcast result, after the checks of both operands.
Tensor empty_for(const Tensor& a, const Tensor& b, const char* op) {
  detail::check_same_kind(a, b, op);
  return empty(broadcast_shapes(a.shape(), b.shape(), op), a.dtype(), a.device());
}

template <class Fn>
Tensor binary_cuda([[maybe_unused]] const Tensor& a, [[maybe_unused]] const Tensor& b, [[maybe_unused]] const char* op,
                   [[maybe_unused]] Fn fn) {
  Tensor y;
#ifdef __CUDACC__
  const auto run = [&]<class T>() {
    y = empty_for(a, b, op);
    cuda::elementwise<true, T, T, T>(op, y, fn, a, b);
  };
  if constexpr (Fn::kHasIntegers) cuda::dispatch_arithmetic(a.dtype(), op, run);
  else cuda::dispatch_floating(a.dtype(), op, run);
#endif
  return y;
}

template <class Fn>
Tensor binary_cpu(const Tensor& a, const Tensor& b, const char* op, Fn fn) {
  if (detail::needs_f32(a) && a.dtype() == b.dtype()) {
    return detail::rounded_to(binary_cpu(detail::in_f32(a), detail::in_f32(b), op, fn), a.dtype());
  }
  Tensor y;
  const auto run = [&]<class T>() {
    y = empty_for(a, b, op);
    detail::map<T, T>(y, a, b, [fn](T p, T q) { return fn(p, q); });
  };
  if constexpr (Fn::kHasIntegers) detail::dispatch_arithmetic(a.dtype(), op, run);
  else dispatch_floating(a.dtype(), op, run);
  return y;
}

template <class Fn>
Tensor binary(const Tensor& a, const Tensor& b, const char* op, Fn fn) {
  return a.is_cuda() ? binary_cuda(a, b, op, fn) : binary_cpu(a, b, op, fn);
}

struct AddNode final : Node {
  AddNode(const char* name, Shape shape_a, Shape shape_b, bool subtract)
      : Node(name), a_shape(shape_a), b_shape(shape_b), negate_b(subtract) {}
  Shape a_shape, b_shape;
  bool negate_b;

  Tensors backward(const Tensors& dy) override {
    Tensor da, db;
    if (needs(0)) da = sum_to(dy[0], a_shape);
    if (needs(1)) db = sum_to(dy[0], b_shape);
    if (db.defined() && negate_b) db = neg(db);
    return {da, db};
  }
};

/// sum += a * b, which broadcast to sum.
void add_product_cuda([[maybe_unused]] const Tensor& sum, [[maybe_unused]] const Tensor& a,
                      [[maybe_unused]] const Tensor& b) {
#ifdef __CUDACC__
  cuda::dispatch_floating(sum.dtype(), "mul",
                          [&]<class T>() { cuda::elementwise<true, T, T, T, T>("mul", sum, AddProduct{}, sum, a, b); });
#endif
}

struct MulNode final : Node {
  MulNode(Shape shape_a, Shape shape_b) : Node("mul"), a_shape(shape_a), b_shape(shape_b) {}
  Shape a_shape, b_shape;
  Saved a{this, "a"}, b{this, "b"};

  Tensors backward(const Tensors& dy) override {
    return {needs(0) ? product(dy[0], *b, 0, a_shape) : Tensor(), needs(1) ? product(dy[0], *a, 1, b_shape) : Tensor()};
  }

 private:
  /// dy times the other operand, the gradient of input i.
  Tensor product(const Tensor& dy, const Tensor& other, int i, const Shape& shape) const {
    const Tensor sum = dy.is_cuda() && dy.shape() == shape ? take_gradient_sum(*this, i) : Tensor();
    if (!sum.defined()) return detail::sum_product_to(dy, other, shape);
    add_product_cuda(sum, dy, other);
    return sum;
  }
};

struct DivNode final : Node {
  DivNode(Shape shape_a, Shape shape_b) : Node("div"), a_shape(shape_a), b_shape(shape_b) {}
  Shape a_shape, b_shape;
  Saved b{this, "b"}, y{this, "y"};

  Tensors backward(const Tensors& dy) override {
    const Tensor da = div(dy[0], *b);
    Tensor db;
    if (needs(1)) db = neg(detail::sum_product_to(da, *y, b_shape));
    return {needs(0) ? sum_to(da, a_shape) : Tensor(), db};
  }
};

struct ExtremumNode final : Node {
  ExtremumNode(const char* name, bool is_larger) : Node(name), larger(is_larger) {}
  bool larger;
  Saved a{this, "a"}, b{this, "b"};

  Tensors backward(const Tensors& dy) override {
    const Tensor share = binary(*a, *b, name().c_str(), ShareOfFirst{larger});
    const Tensor da = mul(dy[0], share);
    return {needs(0) ? sum_to(da, a->shape()) : Tensor(), needs(1) ? sum_to(sub(dy[0], da), b->shape()) : Tensor()};
  }
};

Tensor extremum(const Tensor& a_in, const Tensor& b_in, bool larger) {
  const auto [a, b] = promoted(a_in, b_in);
  const char* op = larger ? "maximum" : "minimum";
  const Tensor y = larger ? binary(a, b, op, Larger{}) : binary(a, b, op, Smaller{});
  if (auto* node = record<ExtremumNode>(y, {a, b}, op, larger)) {
    node->a = a;
    node->b = b;
  }
  return y;
}

void choose_cuda([[maybe_unused]] const Tensor& result, [[maybe_unused]] const Tensor& condition,
                 [[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  dispatch_all(x.dtype(),
               [&]<class T>() { cuda::elementwise<false, T, bool, T, T>("where", result, Choose{}, condition, x, y); });
#endif
}

/// condition ? x : y of any dtype, already checked; not recorded.
Tensor choose(const Tensor& condition, const Tensor& x, const Tensor& y, const Shape& shape) {
  const Tensor result = empty(shape, x.dtype(), x.device());
  if (x.is_cuda()) {
    choose_cuda(result, condition, x, y);
    return result;
  }
  dispatch_all(x.dtype(), [&]<class T>() {
    const bool* const c = condition.data<bool>();
    const T* const in_x = x.data<T>();
    const T* const in_y = y.data<T>();
    T* const out = result.data<T>();
    detail::strided_loop<4>(shape,
                            {result.strides(), detail::broadcast_strides(condition, shape),
                             detail::broadcast_strides(x, shape), detail::broadcast_strides(y, shape)},
                            [=](int64_t count, const auto& offset, const auto& step) {
                              for (int64_t i = 0; i < count; ++i) {
                                out[offset[0] + i * step[0]] = c[offset[1] + i * step[1]]
                                                                   ? in_x[offset[2] + i * step[2]]
                                                                   : in_y[offset[3] + i * step[3]];
                              }
                            });
  });
  return result;
}

struct WhereNode final : Node {
  WhereNode(Shape shape_x, Shape shape_y) : Node("where"), x_shape(shape_x), y_shape(shape_y) {}
  Shape x_shape, y_shape;
  Saved condition{this, "condition"};

  Tensors backward(const Tensors& dy) override {
    const Tensor zero = zeros({}, dy[0].dtype(), dy[0].device());
    Tensor dx, dother;
    if (needs(1)) dx = sum_to(choose(*condition, dy[0], zero, dy[0].shape()), x_shape);
    if (needs(2)) dother = sum_to(choose(*condition, zero, dy[0], dy[0].shape()), y_shape);
    return {Tensor(), dx, dother};
  }
};

template <class Fn>
void compare_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& a, [[maybe_unused]] const Tensor& b,
                  [[maybe_unused]] const char* op, [[maybe_unused]] Fn fn) {
#ifdef __CUDACC__
  dispatch_all(a.dtype(), [&]<class T>() { cuda::elementwise<false, bool, T, T>(op, y, fn, a, b); });
#endif
}

template <class Fn>
Tensor compare(const Tensor& a, const Tensor& b, const char* op, Fn fn) {
  detail::check_same_kind(a, b, op);
  const Tensor y = empty(broadcast_shapes(a.shape(), b.shape(), op), boolean, a.device());
  if (a.is_cuda()) {
    compare_cuda(y, a, b, op, fn);
    return y;
  }
  dispatch_all(a.dtype(), [&]<class T>() {
    detail::map<T, bool>(y, a, b, [fn](T p, T q) {
      if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
        return fn(static_cast<float>(p), static_cast<float>(q));
      } else {
        return fn(p, q);
      }
    });
  });
  return y;
}

}  // namespace

Tensor add(const Tensor& a_in, const Tensor& b_in) {
  const auto [a, b] = promoted(a_in, b_in);
  const Tensor y = binary(a, b, "add", Sum{});
  record<AddNode>(y, {a, b}, "add", a.shape(), b.shape(), false);
  return y;
}

Tensor sub(const Tensor& a_in, const Tensor& b_in) {
  const auto [a, b] = promoted(a_in, b_in);
  const Tensor y = binary(a, b, "sub", Difference{});
  record<AddNode>(y, {a, b}, "sub", a.shape(), b.shape(), true);
  return y;
}

Tensor mul(const Tensor& a_in, const Tensor& b_in) {
  const auto [a, b] = promoted(a_in, b_in);
  const Tensor y = binary(a, b, "mul", Product{});
  if (auto* node = record<MulNode>(y, {a, b}, a.shape(), b.shape())) {
    if (node->needs(0)) node->b = b;
    if (node->needs(1)) node->a = a;
  }
  return y;
}

Tensor div(const Tensor& a_in, const Tensor& b_in) {
  const auto [a, b] = promoted(a_in, b_in);
  const Tensor y = binary(a, b, "div", Quotient{});
  if (auto* node = record<DivNode>(y, {a, b}, a.shape(), b.shape())) {
    node->b = b;
    if (node->needs(1)) node->y = y;
  }
  return y;
}

Tensor maximum(const Tensor& a, const Tensor& b) { return extremum(a, b, true); }
Tensor minimum(const Tensor& a, const Tensor& b) { return extremum(a, b, false); }

Tensor where(const Tensor& condition, const Tensor& x, const Tensor& y) {
  CAMO_CHECK(condition.dtype() == boolean, "where: the condition must be bool; got ", condition.dtype(),
             "; compare, or convert with to(condition, boolean)");
  detail::check_same_kind(x, y, "where");
  CAMO_CHECK(condition.device() == x.device(), "where: operands must be on one device; got ", condition.device(),
             " and ", x.device(), "; copy one with to()");
  const Shape shape = broadcast_shapes(condition.shape(), broadcast_shapes(x.shape(), y.shape(), "where"), "where");
  const Tensor result = choose(condition, x, y, shape);
  if (auto* node = record<WhereNode>(result, {condition, x, y}, x.shape(), y.shape())) node->condition = condition;
  return result;
}

Tensor greater(const Tensor& a, const Tensor& b) { return compare(a, b, "greater", IsGreater{}); }

Tensor greater_equal(const Tensor& a, const Tensor& b) { return compare(a, b, "greater_equal", IsGreaterOrEqual{}); }

Tensor equal(const Tensor& a, const Tensor& b) { return compare(a, b, "equal", IsEqual{}); }

Tensor greater(const Tensor& x, double number) {
  const Tensor y = empty(x.shape(), boolean, x.device());
  dispatch_all(x.dtype(), [&]<class T>() {
    // Floating numbers compare in their own precision, so that 0.1f > 0.1 is false.
    using Number = std::conditional_t<std::is_same_v<T, float>, float, double>;
    const Number limit = static_cast<Number>(number);
    if (x.is_cuda()) {
#ifdef __CUDACC__
      cuda::elementwise<false, bool, T>("greater", y, IsAbove<Number>{limit}, x);
#endif
    } else {
      detail::map<T, bool>(y, x, [limit](T value) { return convert<Number>(value) > limit; });
    }
  });
  return y;
}

}  // namespace camo
