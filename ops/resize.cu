// Bilinear resizing of [N, H, W, C] with half-pixel centres, no antialiasing.
//
//   y[oy, ox] = sum over iy, ix of R[oy, iy] * K[ox, ix] * x[iy, ix], R and K with one or two entries a row
//   dx = the same with R and K transposed, summed in a fixed order
//
// Saves nothing. Positions and weights are computed in f64, the sums run in the element type.
#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "ops/detail/separable.h"
#include "ops/resize.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

struct ResizeBilinearNode final : Node {
  ResizeBilinearNode(detail::AxisTaps r, detail::AxisTaps c)
      : Node("resize_bilinear"), rows(std::move(r)), columns(std::move(c)) {}
  detail::AxisTaps rows, columns;

  Tensors backward(const Tensors& dy) override {
    return {detail::separable_map(contiguous(dy[0]), rows.transposed(), columns.transposed(), "resize_bilinear",
                                  take_gradient_sum(*this, 0))};
  }
};

}  // namespace

Tensor resize_bilinear(const Tensor& x, int64_t height, int64_t width) {
  CAMO_CHECK(x.dims() == 4, "resize_bilinear: x must be [N, H, W, C]; got ", x.shape());
  CAMO_CHECK(height >= 1 && width >= 1, "resize_bilinear: the new size must be at least 1 x 1; got ", height, " x ",
             width);
  CAMO_CHECK(x.size(1) >= 1 && x.size(2) >= 1, "resize_bilinear: x must not have an empty height or width; got ",
             x.shape());
  if (x.size(1) == height && x.size(2) == width) return x;
  detail::AxisTaps rows = detail::bilinear_taps(x.size(1), height);
  detail::AxisTaps columns = detail::bilinear_taps(x.size(2), width);
  const Tensor y = detail::separable_map(contiguous(x.detach()), rows, columns, "resize_bilinear");
  record<ResizeBilinearNode>(y, {x}, std::move(rows), std::move(columns));
  return y;
}

}  // namespace camo
