// Unary elementwise operations: y = value(x), dx = dy * derivative(s).
//
// s is what the operation saves for its gradient: x, y, or nothing where the derivative is a constant. The functors in
// unary_functions.h hold both formulas. The 16-bit types compute in float.
#include <cmath>

#include "core/autograd.h"
#include "core/strided_loop.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/unary_functions.h"
#include "ops/elementwise.h"
#ifdef __CUDACC__
#include "core/cuda/elementwise.cuh"
#endif

namespace camo {

namespace {

using namespace detail;  // the functors

// --- CUDA ---

#ifdef __CUDACC__
template <class F>
struct ValueOfElement {
  F f;
  template <class T>
  __device__ T operator()(T x) const {
    return f.value(x);
  }
};

template <class F>
struct TimesDerivative {
  F f;
  template <class T>
  __device__ T operator()(T dy) const {
    return dy * f.derivative(T(0));
  }
  template <class T>
  __device__ T operator()(T dy, T saved) const {
    return times_derivative(f, dy, saved);
  }
};
#endif

/// y = f.value(x). i64 where the operation has it.
template <class F>
Tensor unary_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] F f) {
  Tensor y;
#ifdef __CUDACC__
  const auto run = [&]<class T>() {
    y = empty_like(x);
    cuda::elementwise<false, T, T>(F::kName, y, ValueOfElement<F>{f}, x);
  };
  if constexpr (F::kHasIntegers) cuda::dispatch_arithmetic(x.dtype(), F::kName, run);
  else cuda::dispatch_floating(x.dtype(), F::kName, run);
#endif
  return y;
}

/// dx = dy * f.derivative(saved)
template <class F>
void unary_gradient_cuda([[maybe_unused]] const Tensor& dx, [[maybe_unused]] const Tensor& dy,
                         [[maybe_unused]] const Saved& saved, [[maybe_unused]] F f) {
#ifdef __CUDACC__
  cuda::dispatch_floating(dx.dtype(), F::kName, [&]<class T>() {
    if constexpr (F::kSaves == Saves::nothing) cuda::elementwise<false, T, T>(F::kName, dx, TimesDerivative<F>{f}, dy);
    else cuda::elementwise<false, T, T, T>(F::kName, dx, TimesDerivative<F>{f}, dy, *saved);
  });
#endif
}

template <class F>
Tensor unary_gradient_cpu(const Tensor& dy, const Tensor& saved, F f) {
  if (detail::needs_f32(dy)) {
    const Tensor wide = saved.defined() ? detail::in_f32(saved) : Tensor();
    return detail::rounded_to(unary_gradient_cpu(detail::in_f32(dy), wide, f), dy.dtype());
  }
  const Tensor dx = empty_like(dy);
  dispatch_floating(dx.dtype(), F::kName, [&]<class T>() {
    const F fn = f;
    if constexpr (F::kSaves == Saves::nothing) {
      detail::map<T, T>(dx, dy, [fn](T d) { return d * fn.derivative(T(0)); });
    } else {
      detail::map<T, T>(
          dx, dy, saved, [fn](T d, T s) __attribute__((always_inline)) { return times_derivative(fn, d, s); });
    }
  });
  return dx;
}

template <class F>
struct UnaryNode final : Node {
  explicit UnaryNode(F functor) : Node(F::kName), f(functor) {}
  F f;
  Saved s{this, F::kSaves == Saves::output ? "y" : "x"};

  Tensors backward(const Tensors& dy) override {
    if (!dy[0].is_cuda()) {
      return {unary_gradient_cpu(dy[0], F::kSaves == Saves::nothing ? Tensor() : *s, f)};
    }
    const Tensor dx = empty_like(dy[0]);
    unary_gradient_cuda(dx, dy[0], s, f);
    return {dx};
  }
};

template <class F>
Tensor unary_cpu(const Tensor& x, F f) {
  if (detail::needs_f32(x)) return detail::rounded_to(unary_cpu(detail::in_f32(x), f), x.dtype());
  Tensor y;
  const auto run = [&]<class T>() {
    y = empty_like(x);
    detail::map<T, T>(
        y, x, [f](T value) __attribute__((always_inline)) { return f.value(value); });
  };
  if constexpr (F::kHasIntegers) detail::dispatch_arithmetic(x.dtype(), F::kName, run);
  else camo::dispatch_floating(x.dtype(), F::kName, run);
  return y;
}

template <class F>
Tensor unary(const Tensor& x, F f = {}) {
  const Tensor y = x.is_cuda() ? unary_cuda(x, f) : unary_cpu(x, f);
  if (auto* node = record<UnaryNode<F>>(y, {x}, f)) {
    if constexpr (F::kSaves == Saves::input) node->s = x;
    if constexpr (F::kSaves == Saves::output) node->s = y;
  }
  return y;
}

struct AddNumberNode final : Node {
  AddNumberNode() : Node("add") {}
  Tensors backward(const Tensors& dy) override { return {dy[0]}; }
};

void check_number(const Tensor& x, double number, const char* op) {
  CAMO_CHECK(x.dtype() != i64 || (number == std::trunc(number) && std::fabs(number) < 0x1p63), op,
             ": an i64 tensor takes a whole number; got ", number, "; convert with to(x, f32)");
}

}  // namespace

Tensor neg(const Tensor& x) { return unary<Neg>(x); }
Tensor abs(const Tensor& x) { return unary<Abs>(x); }
Tensor square(const Tensor& x) { return unary<Square>(x); }
Tensor sqrt(const Tensor& x) { return unary<Sqrt>(x); }
Tensor exp(const Tensor& x) { return unary<Exp>(x); }
Tensor log(const Tensor& x) { return unary<Log>(x); }
Tensor sin(const Tensor& x) { return unary<Sin>(x); }
Tensor cos(const Tensor& x) { return unary<Cos>(x); }
Tensor erf(const Tensor& x) { return unary<Erf>(x); }
Tensor sigmoid(const Tensor& x) { return unary<Sigmoid>(x); }
Tensor tanh(const Tensor& x) { return unary<Tanh>(x); }
Tensor relu(const Tensor& x) { return unary<Relu>(x); }
Tensor gelu(const Tensor& x) { return unary<Gelu>(x); }
Tensor softplus(const Tensor& x) { return unary<Softplus>(x); }
Tensor pow(const Tensor& x, double exponent) { return unary(x, Pow{exponent}); }

Tensor clamp(const Tensor& x, double low, double high) {
  CAMO_CHECK(low <= high, "clamp: low must not be above high; got ", low, " and ", high);
  return unary(x, Clamp{low, high});
}

Tensor add(const Tensor& x, double number) {
  check_number(x, number, "add");
  const AddNumber f{number};
  const Tensor y = x.is_cuda() ? unary_cuda(x, f) : unary_cpu(x, f);
  record<AddNumberNode>(y, {x});
  return y;
}

Tensor mul(const Tensor& x, double number) {
  check_number(x, number, "mul");
  return unary(x, MulNumber{number});
}

}  // namespace camo
