// Joins and data movement: concat, stack, pad, flip, rot90.
//
//   concat   dparts = slices of dy     pad     dx = slice of dy
//   flip     dx = flip(dy)             rot90   dx = rot90(dy, -turns)
//
// On CUDA all of them are strided copies, which take neighbours along the innermost axis at once.
#include <cstring>

#include "core/autograd.h"
#include "core/strided_loop.h"
#include "ops/detail/autocast.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

struct ConcatNode final : Node {
  ConcatNode(int along, std::vector<int64_t> extents, std::vector<DType> types)
      : Node("concat"), axis(along), sizes(std::move(extents)), dtypes(std::move(types)) {}
  int axis;
  std::vector<int64_t> sizes;
  std::vector<DType> dtypes;

  Tensors backward(const Tensors& dy) override {
    Tensors gradients(sizes.size());
    int64_t start = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (needs(static_cast<int>(i))) gradients[i] = to(slice(dy[0], axis, start, start + sizes[i]), dtypes[i]);
      start += sizes[i];
    }
    return gradients;
  }
};

struct PadNode final : Node {
  PadNode(int along, int64_t first, int64_t extent) : Node("pad"), axis(along), before(first), x_extent(extent) {}
  int axis;
  int64_t before, x_extent;
  Tensors backward(const Tensors& dy) override { return {slice(dy[0], axis, before, before + x_extent)}; }
};

struct FlipNode final : Node {
  explicit FlipNode(Shape over) : Node("flip"), axes(over) {}
  Shape axes;
  Tensors backward(const Tensors& dy) override { return {flip(dy[0], axes)}; }
};

struct Rot90Node final : Node {
  explicit Rot90Node(int by) : Node("rot90"), turns(by) {}
  int turns;
  Tensors backward(const Tensors& dy) override { return {rot90(dy[0], -turns)}; }
};

/// Copies a contiguous part into target[..., start : start + extent, ...]: one memcpy for each index before the axis.
void copy_rows(const Tensor& target, const Tensor& part, int axis, int64_t start) {
  int64_t outer = 1, inner = size_in_bytes(target.dtype());
  for (int i = 0; i < axis; ++i) outer *= target.shape()[i];
  for (int i = axis + 1; i < target.dims(); ++i) inner *= target.shape()[i];
  const int64_t row = part.shape()[axis] * inner, target_row = target.shape()[axis] * inner;
  if (outer * row == 0) return;
  auto* const to = static_cast<char*>(target.raw_data()) + start * inner;
  const auto* const from = static_cast<const char*>(part.raw_data());
  parallel_for(outer, std::max<int64_t>(1, 65536 / row), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(to + i * target_row, from + i * row, static_cast<size_t>(row));
    }
  });
}

/// A contiguous tensor of x's elements read with these strides (negative ones too) from `first` elements after x's own
/// first one.
Tensor rearranged(const Tensor& x, const Shape& shape, const Shape& strides, int64_t first) {
  const Tensor y = empty(shape, x.dtype(), x.device());
  if (x.is_cuda()) {
    copy_into(y, make_view(x, shape, strides, x.offset() + first));
    return y;
  }
  dispatch_all(x.dtype(), [&]<class T>() {
    const T* const in = x.data<T>() + first;
    T* const out = y.data<T>();
    detail::strided_loop<2>(shape, {y.strides(), strides}, [=](int64_t count, const auto& offset, const auto& step) {
      T* const to = out + offset[0];
      const T* const from = in + offset[1];
      if (step[0] == 1 && step[1] == 1) {
        std::copy_n(from, count, to);
      } else {
        for (int64_t i = 0; i < count; ++i) to[i * step[0]] = from[i * step[1]];
      }
    });
  });
  return y;
}

}  // namespace

Tensor concat(const Tensors& parts, int axis) {
  CAMO_CHECK(!parts.empty(), "concat: needs at least one part; got none");
  const Tensor& first = parts.front();
  const int at = normalize_axis(axis, first.dims(), "concat");
  Shape shape = first.shape();
  shape[at] = 0;
  std::vector<int64_t> sizes;
  std::vector<DType> dtypes;
  DType dtype = first.dtype();
  for (const Tensor& part : parts) {
    bool fits = part.dims() == first.dims();
    for (int i = 0; fits && i < first.dims(); ++i) fits = i == at || part.shape()[i] == first.shape()[i];
    CAMO_CHECK(fits, "concat: all extents but that of axis ", axis, " must be equal; got ", first.shape(), " and ",
               part.shape());
    CAMO_CHECK(
        (part.dtype() == first.dtype() || detail::autocast_mixes(part, first)) && part.device() == first.device(),
        "concat: parts must have one dtype and device; got ", first.dtype(), " on ", first.device(), " and ",
        part.dtype(), " on ", part.device(), "; convert with to()");
    if (part.dtype() != dtype) dtype = f32;
    sizes.push_back(part.shape()[at]);
    dtypes.push_back(part.dtype());
    shape[at] += part.shape()[at];
  }
  const Tensor y = empty(shape, dtype, first.device());
  int64_t start = 0;
  for (const Tensor& part : parts) {
    if (part.is_contiguous() && part.dtype() == dtype && y.device().is_cpu()) {
      copy_rows(y, part, at, start);
    } else {
      copy_into(make_view(y, part.shape(), y.strides(), y.offset() + start * y.strides()[at]), part);
    }
    start += part.shape()[at];
  }
  record<ConcatNode>(y, parts, at, sizes, dtypes);
  return y;
}

Tensor stack(const Tensors& parts, int axis) {
  CAMO_CHECK(!parts.empty(), "stack: needs at least one part; got none");
  Tensors expanded;
  for (const Tensor& part : parts) {
    CAMO_CHECK(part.shape() == parts.front().shape(), "stack: all shapes must be equal; got ", parts.front().shape(),
               " and ", part.shape());
    expanded.push_back(unsqueeze(part, axis));
  }
  return concat(expanded, axis);
}

Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after) {
  const int at = normalize_axis(axis, x.dims(), "pad");
  CAMO_CHECK(before >= 0 && after >= 0, "pad: amounts must not be negative; got ", before, " and ", after,
             "; slice() removes");
  Shape shape = x.shape();
  shape[at] += before + after;
  const Tensor y = zeros(shape, x.dtype(), x.device());
  copy_into(make_view(y, x.shape(), y.strides(), y.offset() + before * y.strides()[at]), x);
  record<PadNode>(y, {x}, at, before, x.shape()[at]);
  return y;
}

Tensor flip(const Tensor& x, const Shape& axes) {
  Shape strides = x.strides();
  std::array<bool, Shape::kMaxDims> flipped{};
  int64_t first = 0;
  for (int64_t axis : axes) {
    const int at = normalize_axis(axis, x.dims(), "flip");
    bool& flag = flipped[static_cast<size_t>(at)];
    CAMO_CHECK(!flag, "flip: an axis must not be repeated; got axes ", axes);
    flag = true;
    if (x.numel() > 0) first += (x.shape()[at] - 1) * strides[at];
    strides[at] = -strides[at];
  }
  const Tensor y = rearranged(x, x.shape(), strides, first);
  record<FlipNode>(y, {x}, axes);
  return y;
}

Tensor rot90(const Tensor& x, int turns) {
  CAMO_CHECK(x.dims() == 4, "rot90: x must be [N, H, W, C]; got ", x.shape());
  const int quarter = (turns % 4 + 4) % 4;
  Shape shape = x.shape(), strides = x.strides();
  int64_t first = 0;
  const auto reverse = [&](int axis) {
    if (x.numel() > 0) first += (shape[axis] - 1) * strides[axis];
    strides[axis] = -strides[axis];
  };
  if (quarter == 1 || quarter == 2) reverse(2);
  if (quarter == 2 || quarter == 3) reverse(1);
  if (quarter % 2 == 1) {
    std::swap(shape[1], shape[2]);
    std::swap(strides[1], strides[2]);
  }
  const Tensor y = rearranged(x, shape, strides, first);
  record<Rot90Node>(y, {x}, turns);
  return y;
}

}  // namespace camo
