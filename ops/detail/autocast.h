// The autocast policy as operations apply it (core/autocast.h has the table).
#pragma once

#include "core/autocast.h"

namespace camo::detail {

/// x as an operand of a product: of the scope's dtype where a scope is active and x is f32 or 16-bit, else x.
Tensor autocast_operand(const Tensor& x);

/// The same for weights and biases, outside of any graph: the product ties its result to the parameter itself, whose
/// gradient it computes in the parameter's own dtype. Kept from call to call while the parameter does not change.
Tensor autocast_parameter(const Tensor& parameter);

/// Makes the kept copies of all parameters in this dtype that have changed anew: recorded work reads them as they are.
void refresh_autocast_parameters(Device device, DType dtype);

/// The dtype of layer_norm(x): of the scope for f32 x, else that of x.
DType autocast_result(const Tensor& x);

/// Whether an operation may take these two although their dtypes differ: a scope is active and takes both.
bool autocast_mixes(const Tensor& a, const Tensor& b);

/// Both operands in the wider of their dtypes where a scope is active, else as they are.
void autocast_promote(Tensor& a, Tensor& b);

}  // namespace camo::detail
