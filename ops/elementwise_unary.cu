// Unary elementwise operations: y = value(x), dx = dy * derivative(s).
//
// s is what the operation saves for its gradient: x, y, or nothing where the derivative is a constant. Each functor
// holds both formulas.
#include <cmath>

#include "core/autograd.h"
#include "ops/detail/elementwise.h"
#include "core/strided_loop.h"
#include "ops/detail/vector_math.h"
#include "ops/elementwise.h"

namespace camo {

namespace {

enum class Saves { nothing, input, output };

struct Neg {
  static constexpr const char* kName = "neg";
  static constexpr Saves kSaves = Saves::nothing;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return -x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T) const {
    return T(-1);
  }
};

struct Abs {
  static constexpr const char* kName = "abs";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x < T(0) ? -x : x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(x > T(0)) - T(x < T(0));
  }
};

struct Square {
  static constexpr const char* kName = "square";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x * x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return 2 * x;
  }
};

struct Sqrt {
  static constexpr const char* kName = "sqrt";
  static constexpr Saves kSaves = Saves::output;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::sqrt(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return T(0.5) / y;
  }
};

struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr Saves kSaves = Saves::output;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return detail::simd_exp(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return y;
  }
};

struct Log {
  static constexpr const char* kName = "log";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::log(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return 1 / x;
  }
};

struct Sin {
  static constexpr const char* kName = "sin";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::sin(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return std::cos(x);
  }
};

struct Cos {
  static constexpr const char* kName = "cos";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::cos(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return -std::sin(x);
  }
};

struct Erf {  // derivative: 2 / sqrt(pi) exp(-x^2)
  static constexpr const char* kName = "erf";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return detail::simd_erf(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(1.1283791670955126) * detail::simd_exp(-x * x);
  }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr Saves kSaves = Saves::output;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return detail::simd_sigmoid(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return y * (1 - y);
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr Saves kSaves = Saves::output;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::tanh(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return 1 - y * y;
  }
};

struct Relu {  // written so that NaN stays NaN
  static constexpr const char* kName = "relu";
  static constexpr Saves kSaves = Saves::output;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x < T(0) ? T(0) : x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return T(y > T(0));
  }
};

struct Gelu {  // x Phi(x); derivative Phi(x) + x phi(x), phi the normal density
  static constexpr const char* kName = "gelu";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE static T phi_cumulative(T x) {
    return T(0.5) + T(0.5) * detail::simd_erf(x * T(0.70710678118654752));
  }
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE T value(T x) const {
    return x * phi_cumulative(x);
  }
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE T derivative(T x) const {
    return phi_cumulative(x) + x * T(0.39894228040143268) * detail::simd_exp(x * x * T(-0.5));
  }
};

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr Saves kSaves = Saves::input;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return detail::simd_softplus(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return detail::simd_sigmoid(x);
  }
};

struct Clamp {
  static constexpr const char* kName = "clamp";
  static constexpr Saves kSaves = Saves::input;
  double low, high;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x < T(low) ? T(low) : x > T(high) ? T(high) : x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(x >= T(low) && x <= T(high));
  }
};

struct Pow {
  static constexpr const char* kName = "pow";
  static constexpr Saves kSaves = Saves::input;
  double exponent;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return std::pow(x, T(exponent));
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return exponent == 0 ? T(0) : T(exponent) * std::pow(x, T(exponent - 1));
  }
};

struct MulNumber {
  static constexpr const char* kName = "mul";
  static constexpr Saves kSaves = Saves::nothing;
  double number;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x * T(number);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T) const {
    return T(number);
  }
};

template <class F>
struct UnaryNode final : Node {
  explicit UnaryNode(F functor) : Node(F::kName), f(functor) {}
  F f;
  Saved s{this, F::kSaves == Saves::output ? "y" : "x"};

  Tensors backward(const Tensors& dy) override {
    const Tensor dx = empty_like(dy[0]);
    dispatch_floating(dx.dtype(), F::kName, [&]<class T>() {
      const F fn = f;
      if constexpr (F::kSaves == Saves::nothing) {
        detail::map<T, T>(dx, dy[0], [fn](T d) { return d * fn.derivative(T(0)); });
      } else {
        detail::map<T, T>(
            dx, dy[0], *s, [fn](T d, T saved) __attribute__((always_inline)) { return d * fn.derivative(saved); });
      }
    });
    return {dx};
  }
};

template <class F>
Tensor record_unary(const Tensor& x, const Tensor& y, F f) {
  if (auto* node = record<UnaryNode<F>>(y, {x}, f)) {
    if constexpr (F::kSaves == Saves::input) node->s = x;
    if constexpr (F::kSaves == Saves::output) node->s = y;
  }
  return y;
}

template <class F>
Tensor unary(const Tensor& x, F f = {}) {
  return dispatch_floating(x.dtype(), F::kName, [&]<class T>() {
    const Tensor y = empty_like(x);
    detail::map<T, T>(
        y, x, [f](T value) __attribute__((always_inline)) { return f.value(value); });
    return record_unary(x, y, f);
  });
}

/// For operations that integers have as well.
template <class F>
Tensor unary_arithmetic(const Tensor& x, F f = {}) {
  return detail::dispatch_arithmetic(x.dtype(), F::kName, [&]<class T>() {
    const Tensor y = empty_like(x);
    detail::map<T, T>(
        y, x, [f](T value) __attribute__((always_inline)) { return f.value(value); });
    return record_unary(x, y, f);
  });
}

struct AddNumberNode final : Node {
  AddNumberNode() : Node("add") {}
  Tensors backward(const Tensors& dy) override { return {dy[0]}; }
};

void check_number(const Tensor& x, double number, const char* op) {
  CAMO_CHECK(x.dtype() != i64 || number == std::trunc(number), op, ": an i64 tensor takes a whole number; got ", number,
             "; convert with to(x, f32)");
}

}  // namespace

Tensor neg(const Tensor& x) { return unary_arithmetic<Neg>(x); }
Tensor abs(const Tensor& x) { return unary_arithmetic<Abs>(x); }
Tensor square(const Tensor& x) { return unary_arithmetic<Square>(x); }
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
  return detail::dispatch_arithmetic(x.dtype(), "add", [&]<class T>() {
    const Tensor y = empty_like(x);
    const T constant = static_cast<T>(number);
    detail::map<T, T>(y, x, [constant](T value) { return value + constant; });
    record<AddNumberNode>(y, {x});
    return y;
  });
}

Tensor mul(const Tensor& x, double number) {
  check_number(x, number, "mul");
  return unary_arithmetic(x, MulNumber{number});
}

}  // namespace camo
