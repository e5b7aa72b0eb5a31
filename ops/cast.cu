// Conversions of dtype and copies between devices. The gradient takes the way back: dx = to(dy, dtype or device of x).
#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "ops/elementwise.h"

namespace camo {

namespace {

struct CastNode final : Node {
  explicit CastNode(DType source) : Node("to"), dtype(source) {}
  DType dtype;
  Tensors backward(const Tensors& dy) override {
    const bool widens = dtype == f32 && size_in_bytes(dy[0].dtype()) == 2;
    const Tensor sum = widens ? take_gradient_sum(*this, 0) : Tensor();
    if (!sum.defined()) return {to(dy[0], dtype)};
    add_into(sum, dy[0]);
    return {sum};
  }
};

struct CopyToDeviceNode final : Node {
  explicit CopyToDeviceNode(Device source) : Node("to"), device(source) {}
  Device device;
  Tensors backward(const Tensors& dy) override { return {to(dy[0], device)}; }
};

}  // namespace

Tensor to(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = empty(x.shape(), dtype, x.device());
  copy_into(y, x);
  // Integers and bools have no gradient by nature, as results of comparisons have none.
  if (is_floating(dtype)) record<CastNode>(y, {x}, x.dtype());
  return y;
}

Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  const Tensor y = empty(x.shape(), x.dtype(), device);
  copy_into(y, x);
  record<CopyToDeviceNode>(y, {x}, x.device());
  return y;
}

}  // namespace camo
