// Elementwise operations with NumPy broadcasting; what ops/ops.h says of all operations holds. The arithmetic ones and
// neg, abs and square take i64 too, without a gradient. Under Autocast mixed floating operands become the wider dtype.
#pragma once

#include "core/tensor.h"

namespace camo {

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
/// Larger / smaller of the two; where both are equal each gets half of the gradient.
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
/// x where the bool condition holds, else y, of any one dtype. All three broadcast.
Tensor where(const Tensor& condition, const Tensor& x, const Tensor& y);

/// With a number for the second operand, a whole one beside i64.
Tensor add(const Tensor& x, double number);
Tensor mul(const Tensor& x, double number);
/// x^exponent; x > 0 unless the exponent is a whole number.
Tensor pow(const Tensor& x, double exponent);

Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);  // gradient 0 at 0
Tensor square(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor relu(const Tensor& x);  // gradient 0 at 0
/// Exact GELU: x * Phi(x), Phi the normal cumulative distribution (arXiv:1606.08415).
Tensor gelu(const Tensor& x);
/// log(1 + exp(x)) without overflow.
Tensor softplus(const Tensor& x);
/// min(max(x, low), high); gradient 1 inside and at the limits, 0 outside.
Tensor clamp(const Tensor& x, double low, double high);

/// Comparisons, of any one dtype, give bool tensors and have no gradient. Both sides broadcast.
Tensor greater(const Tensor& a, const Tensor& b);
Tensor greater_equal(const Tensor& a, const Tensor& b);
Tensor equal(const Tensor& a, const Tensor& b);
Tensor greater(const Tensor& x, double number);

/// Converts the dtype; x itself when nothing changes. Gradients are converted back; none comes through i64, u8, bool.
Tensor to(const Tensor& x, DType dtype);
/// Copies to the device, and gradients back; x itself when it is there already.
Tensor to(const Tensor& x, Device device);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator+(const Tensor& x, double number) { return add(x, number); }
inline Tensor operator+(double number, const Tensor& x) { return add(x, number); }
inline Tensor operator-(const Tensor& x, double number) { return add(x, -number); }
inline Tensor operator-(double number, const Tensor& x) { return add(neg(x), number); }
inline Tensor operator*(const Tensor& x, double number) { return mul(x, number); }
inline Tensor operator*(double number, const Tensor& x) { return mul(x, number); }
inline Tensor operator/(const Tensor& x, double number) { return mul(x, 1 / number); }
inline Tensor operator/(double number, const Tensor& x) { return div(full({}, number, x.dtype(), x.device()), x); }

}  // namespace camo
