// What the families of elementwise operations share: dtype dispatch, checks of operands, fused products of gradients.
#pragma once

#include "core/autograd.h"
#include "core/tensor.h"

namespace camo::detail {

/// Calls fn.template operator()<T>() with T = float, double or int64_t; other dtypes throw naming `op`.
template <class Fn>
decltype(auto) dispatch_arithmetic(DType dtype, const char* op, Fn&& fn) {
  if (dtype == DType::f32) return std::forward<Fn>(fn).template operator()<float>();
  if (dtype == DType::f64) return std::forward<Fn>(fn).template operator()<double>();
  if (dtype == DType::i64) return std::forward<Fn>(fn).template operator()<int64_t>();
  fail(ErrorCode::general, op, ": computes in f32, f64 or i64 on the CPU; got ", dtype, "; convert with to(x, f32)");
}

/// x has a dtype that floating-point operations compute in on its device: f32 and f64, on CUDA the 16-bit types too.
inline void check_computes(const Tensor& x, const char* op) {
  if (x.is_cuda()) {
    CAMO_CHECK(is_floating(x.dtype()), op, ": computes in floating dtypes; got ", x.dtype(),
               "; convert with to(x, f32)");
  } else {
    CAMO_CHECK(x.dtype() == f32 || x.dtype() == f64, op, ": computes in f32 or f64 on the CPU; got ", x.dtype(),
               "; convert with to(x, f32)");
  }
}

inline void check_same_kind(const Tensor& a, const Tensor& b, const char* op) {
  CAMO_CHECK(a.dtype() == b.dtype(), op, ": operands must have one dtype; got ", a.dtype(), " and ", b.dtype(),
             "; convert one with to()");
  CAMO_CHECK(a.device() == b.device(), op, ": operands must be on one device; got ", a.device(), " and ", b.device(),
             "; copy one with to()");
}

/// sum_to(a * b, shape) without the product in memory where a and b are contiguous. Not recorded.
Tensor sum_product_to(const Tensor& a, const Tensor& b, const Shape& shape);

}  // namespace camo::detail
