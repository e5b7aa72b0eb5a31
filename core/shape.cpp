#include "core/shape.h"

namespace camo {

int normalize_axis(int64_t axis, int dims, const char* op) {
  CAMO_CHECK(dims > 0, op, ": the tensor has no axes, its shape is []; got axis ", axis);
  CAMO_CHECK(axis >= -dims && axis < dims, op, ": axis must be in [", -dims, ", ", dims - 1, "]; got ", axis);
  return static_cast<int>(axis < 0 ? axis + dims : axis);
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op) {
  const int dims = std::max(a.size(), b.size());
  Shape result = Shape::filled(dims, 1);
  for (int i = 1; i <= dims; ++i) {  // from the last axis
    const int64_t extent_a = i <= a.size() ? a[a.size() - i] : 1;
    const int64_t extent_b = i <= b.size() ? b[b.size() - i] : 1;
    CAMO_CHECK(extent_a == extent_b || extent_a == 1 || extent_b == 1, op, ": shapes must broadcast; got ", a, " and ",
               b);
    result[dims - i] = extent_a == 1 ? extent_b : extent_a;
  }
  return result;
}

}  // namespace camo
