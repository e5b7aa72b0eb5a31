// Unary elementwise functions: y = value(x), dy/dx = derivative(s), where s is what the operation saves. Those that
// pass or stop a gradient say which by passes(s): a product with 0 would make NaN of an infinite one.
#pragma once

#include <cmath>

#include "core/half.h"
#include "ops/detail/vector_math.h"

namespace camo::detail {

enum class Saves { nothing, input, output };

struct Neg {
  static constexpr const char* kName = "neg";
  static constexpr Saves kSaves = Saves::nothing;
  static constexpr bool kHasIntegers = true;
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
  static constexpr bool kHasIntegers = true;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x <= T(0) ? T(0) - x : x;  // +0 for -0
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(x > T(0)) - T(x < T(0));
  }
};

struct Square {
  static constexpr const char* kName = "square";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = true;
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
  static constexpr bool kHasIntegers = false;
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
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return simd_exp(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return y;
  }
};

struct Log {
  static constexpr const char* kName = "log";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = false;
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
  static constexpr bool kHasIntegers = false;
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
  static constexpr bool kHasIntegers = false;
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
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return simd_erf(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(1.1283791670955126) * simd_exp(-x * x);
  }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr Saves kSaves = Saves::output;
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return simd_sigmoid(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return y * (1 - y);
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr Saves kSaves = Saves::output;
  static constexpr bool kHasIntegers = false;
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
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x < T(0) ? T(0) : x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T y) const {
    return T(y > T(0));
  }
  template <class T>
  CAMO_HOST_DEVICE bool passes(T y) const {
    return !(y <= T(0));
  }
};

struct Gelu {  // x Phi(x); derivative Phi(x) + x phi(x), phi the normal density
  static constexpr const char* kName = "gelu";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = false;
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE static T phi_cumulative(T x) {
    return T(0.5) + T(0.5) * simd_erf(x * T(0.70710678118654752));
  }
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE T value(T x) const {
    return x * phi_cumulative(x);
  }
  template <class T>
  [[gnu::always_inline]] CAMO_HOST_DEVICE T derivative(T x) const {
    return phi_cumulative(x) + x * T(0.39894228040143268) * simd_exp(x * x * T(-0.5));
  }
};

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = false;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return simd_softplus(x);
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return simd_sigmoid(x);
  }
};

struct Clamp {
  static constexpr const char* kName = "clamp";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = false;
  double low, high;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x < T(low) ? T(low) : x > T(high) ? T(high) : x;
  }
  template <class T>
  CAMO_HOST_DEVICE T derivative(T x) const {
    return T(x >= T(low) && x <= T(high));
  }
  template <class T>
  CAMO_HOST_DEVICE bool passes(T x) const {
    return x >= T(low) && x <= T(high);
  }
};

struct Pow {
  static constexpr const char* kName = "pow";
  static constexpr Saves kSaves = Saves::input;
  static constexpr bool kHasIntegers = false;
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

struct AddNumber {  // has a node of its own: the gradient passes through
  static constexpr const char* kName = "add";
  static constexpr bool kHasIntegers = true;
  double number;
  template <class T>
  CAMO_HOST_DEVICE T value(T x) const {
    return x + T(number);
  }
};

struct MulNumber {
  static constexpr const char* kName = "mul";
  static constexpr Saves kSaves = Saves::nothing;
  static constexpr bool kHasIntegers = true;
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

/// dy * f.derivative(s), or dy itself where f passes it.
template <class F, class T>
[[gnu::always_inline]] CAMO_HOST_DEVICE inline T times_derivative(const F& f, T dy, T s) {
  if constexpr (requires { f.passes(s); }) return f.passes(s) ? dy : T(0);
  else return dy * f.derivative(s);
}

}  // namespace camo::detail
