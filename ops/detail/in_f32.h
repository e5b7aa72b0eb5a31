// 16-bit tensors in CPU memory: operations compute in f32 and round their results; what a graph keeps stays 16-bit.
#pragma once

#include "core/autograd.h"
#include "core/function_ref.h"

namespace camo::detail {

inline bool is_16_bit(DType dtype) { return dtype == f16 || dtype == bf16; }

/// Whether x is a 16-bit tensor in CPU memory: most operations have no code for those.
inline bool needs_f32(const Tensor& x) { return is_16_bit(x.dtype()) && x.device().is_cpu(); }

/// x outside of its graph; a copy in f32 where it is 16-bit.
Tensor in_f32(const Tensor& x);
/// x outside of its graph, rounded to `dtype`.
Tensor rounded_to(const Tensor& x, DType dtype);

/// operation(inputs), its 16-bit inputs converted to f32 and its result to `result`. It must record one node, on
/// (some of) these inputs, which may be undefined. Of what that node keeps, copies of 16-bit inputs and the result are
/// kept in 16 bit.
Tensor in_f32(const Tensors& inputs, DType result, FunctionRef<Tensor(const Tensors&)> operation);

}  // namespace camo::detail
