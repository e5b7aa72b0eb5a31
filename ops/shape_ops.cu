// Views: other shapes, strides and offsets on the same storage. Nothing is saved; the gradient of a view is the view
// backwards, or zeros into which the gradient is copied, or a part of a sum that it is added to.
#include <algorithm>
#include <optional>

#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

struct ReshapeNode final : Node {  // also squeeze and unsqueeze
  explicit ReshapeNode(Shape shape) : Node("reshape"), x_shape(shape) {}
  Shape x_shape;
  Tensors backward(const Tensors& dy) override { return {reshape(dy[0], x_shape)}; }
};

struct PermuteNode final : Node {
  explicit PermuteNode(Shape back) : Node("permute"), inverse(back) {}
  Shape inverse;
  Tensors backward(const Tensors& dy) override { return {permute(dy[0], inverse)}; }
};

struct ExpandNode final : Node {
  explicit ExpandNode(Shape shape) : Node("expand"), x_shape(shape) {}
  Shape x_shape;
  Tensors backward(const Tensors& dy) override { return {sum_to(dy[0], x_shape)}; }
};

struct ContiguousNode final : Node {
  ContiguousNode() : Node("contiguous") {}
  Tensors backward(const Tensors& dy) override { return {dy[0]}; }
};

/// Extents, strides and offset of x[start : start + count * step : step] along one axis; not recorded.
Tensor slice_view(const Tensor& x, int axis, int64_t start, int64_t count, int64_t step) {
  Shape shape = x.shape(), strides = x.strides();
  shape[axis] = count;
  strides[axis] *= step;
  return make_view(x, shape, strides, x.offset() + start * x.strides()[axis]);
}

/// x at one position of an axis, which falls away; not recorded.
Tensor select_view(const Tensor& x, int axis, int64_t index) {
  Shape shape = x.shape(), strides = x.strides();
  shape.erase(axis);
  strides.erase(axis);
  return make_view(x, shape, strides, x.offset() + index * x.strides()[axis]);
}

/// The gradient of a tensor of which `dy` is that of a part, a view whose place part_of() tells.
template <class PartOf>
Tensor gradient_of_whole(const Node& node, const Shape& shape, const Tensor& dy, PartOf&& part_of) {
  if (const Tensor sum = take_gradient_sum(node, 0); sum.defined()) {
    add_into(part_of(sum), dy);
    return sum;
  }
  const Tensor dx = zeros(shape, dy.dtype(), dy.device());
  copy_into(part_of(dx), dy);
  return dx;
}

struct SliceNode final : Node {
  SliceNode(Shape shape, int along, int64_t first, int64_t every)
      : Node("slice"), x_shape(shape), axis(along), start(first), step(every) {}
  Shape x_shape;
  int axis;
  int64_t start, step;

  Tensors backward(const Tensors& dy) override {
    const int64_t count = dy[0].shape()[axis];
    const auto part_of = [&](const Tensor& dx) { return slice_view(dx, axis, start, count, step); };
    return {gradient_of_whole(*this, x_shape, dy[0], part_of)};
  }
};

struct SelectNode final : Node {
  SelectNode(Shape shape, int along, int64_t position) : Node("select"), x_shape(shape), axis(along), index(position) {}
  Shape x_shape;
  int axis;
  int64_t index;

  Tensors backward(const Tensors& dy) override {
    const auto part_of = [&](const Tensor& dx) { return select_view(dx, axis, index); };
    return {gradient_of_whole(*this, x_shape, dy[0], part_of)};
  }
};

struct SplitNode final : Node {
  SplitNode(Shape shape, std::vector<int64_t> extents, int along)
      : Node("split"), x_shape(shape), sizes(std::move(extents)), axis(along) {}
  Shape x_shape;
  std::vector<int64_t> sizes;
  int axis;

  /// The tensor that the parts are slices of already, if they are: an operation may write its gradients side by side.
  std::optional<Tensor> whole(const Tensors& parts) const {
    const Shape strides = x_shape.contiguous_strides();
    int64_t start = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const Tensor& part = parts[i];
      if (!part.defined() || part.storage() != parts[0].storage()) return std::nullopt;
      if (part.offset() != parts[0].offset() + start * strides[axis]) return std::nullopt;
      for (int k = 0; k < x_shape.size(); ++k) {
        if (part.shape()[k] > 1 && part.strides()[k] != strides[k]) return std::nullopt;
      }
      start += sizes[i];
    }
    return make_view(parts[0], x_shape, strides, parts[0].offset());
  }

  Tensors backward(const Tensors& dy) override {
    if (const auto joined = whole(dy)) return {*joined};
    const Tensor& any = *std::find_if(dy.begin(), dy.end(), [](const Tensor& part) { return part.defined(); });
    const GradientSum dx(*this, 0, x_shape, any.dtype(), any.device());
    int64_t start = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const Tensor target = slice_view(dx.tensor, axis, start, sizes[i], 1);
      if (dy[i].defined() && dx.adds) add_into(target, dy[i]);
      else if (dy[i].defined()) copy_into(target, dy[i]);
      else if (!dx.adds) fill(target, 0);
      start += sizes[i];
    }
    return {dx.tensor};
  }
};

/// Strides with which x's memory has this shape, if there are any.
std::optional<Shape> strides_of_reshape(const Tensor& x, const Shape& shape) {
  if (x.is_contiguous()) return shape.contiguous_strides();
  // Walk both shapes from the last axis; `block` is a run of x's axes that step through memory as one.
  Shape strides = Shape::filled(shape.size(), 0);
  int target = shape.size() - 1;
  int64_t block = 1, done = 1;
  int64_t step = x.strides().back();
  for (int axis = x.dims() - 1; axis >= 0; --axis) {
    block *= x.shape()[axis];
    const bool ends = axis == 0 || (x.shape()[axis - 1] != 1 && x.strides()[axis - 1] != block * step);
    if (!ends) continue;
    while (target >= 0 && (done < block || shape[target] == 1)) {
      strides[target] = done * step;
      done *= shape[target--];
    }
    if (done != block) return std::nullopt;
    if (axis > 0) step = x.strides()[axis - 1];
    block = done = 1;
  }
  return target == -1 ? std::optional(strides) : std::nullopt;
}

Tensor reshaped(const Tensor& x, const Shape& shape) {
  const std::optional<Shape> strides = strides_of_reshape(x, shape);
  const Tensor source = strides ? x : clone(x);
  const Tensor y = make_view(source, shape, strides ? *strides : shape.contiguous_strides(), source.offset());
  record<ReshapeNode>(y, {x}, x.shape());
  return y;
}

/// "[3, 4]"
std::string listed(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += concat_text(i > 0 ? ", " : "", sizes[i]);
  return text + "]";
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  Shape full = shape;
  int unknown = -1;
  int64_t known = 1;
  bool fits = true;  // into 64 bits
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] == -1) {
      CAMO_CHECK(unknown == -1, "reshape: at most one extent may be -1; got ", shape);
      unknown = i;
    } else {
      CAMO_CHECK(shape[i] >= 0, "reshape: extents must not be negative, but for one -1; got ", shape);
      fits = fits && !__builtin_mul_overflow(known, shape[i], &known);
    }
  }
  CAMO_CHECK(fits, "reshape: the number of elements must stay; got x ", x.shape(), ", shape ", shape);
  if (unknown >= 0) {
    CAMO_CHECK(known > 0 && x.numel() % known == 0, "reshape: the elements of ", x.shape(), " must divide into ", shape,
               "; got ", x.numel(), " elements");
    full[unknown] = x.numel() / known;
  }
  CAMO_CHECK(full.numel() == x.numel(), "reshape: the number of elements must stay; got x ", x.shape(), ", shape ",
             shape);
  if (full == x.shape()) return x;
  return reshaped(x, full);
}

Tensor flatten(const Tensor& x, int first, int last) {
  if (x.dims() == 0) return reshape(x, {1});
  const int begin = normalize_axis(first, x.dims(), "flatten"), end = normalize_axis(last, x.dims(), "flatten");
  CAMO_CHECK(begin <= end, "flatten: the first axis must not be after the last; got ", first, " and ", last, ", x ",
             x.shape());
  Shape shape;
  for (int i = 0; i < x.dims(); ++i) {
    if (i > begin && i <= end) shape[begin] *= x.shape()[i];
    else shape.push_back(x.shape()[i]);
  }
  return reshape(x, shape);
}

Tensor permute(const Tensor& x, const Shape& order) {
  CAMO_CHECK(order.size() == x.dims(), "permute: the order must name every axis of x once; got ", order, ", x ",
             x.shape());
  Shape shape, strides, inverse = Shape::filled(x.dims(), -1);
  for (int i = 0; i < x.dims(); ++i) {
    const int axis = normalize_axis(order[i], x.dims(), "permute");
    CAMO_CHECK(inverse[axis] == -1, "permute: the order must name every axis of x once; got ", order, ", x ",
               x.shape());
    inverse[axis] = i;
    shape.push_back(x.shape()[axis]);
    strides.push_back(x.strides()[axis]);
  }
  const Tensor y = make_view(x, shape, strides, x.offset());
  record<PermuteNode>(y, {x}, inverse);
  return y;
}

Tensor transpose(const Tensor& x, int a, int b) {
  Shape order;
  for (int i = 0; i < x.dims(); ++i) order.push_back(i);
  std::swap(order[normalize_axis(a, x.dims(), "transpose")], order[normalize_axis(b, x.dims(), "transpose")]);
  return permute(x, order);
}

Tensor unsqueeze(const Tensor& x, int axis) {
  const int at = normalize_axis(axis, x.dims() + 1, "unsqueeze");
  Shape shape = x.shape();
  shape.insert(at, 1);
  return reshape(x, shape);
}

Tensor squeeze(const Tensor& x, int axis) {
  const int at = normalize_axis(axis, x.dims(), "squeeze");
  CAMO_CHECK(x.shape()[at] == 1, "squeeze: the axis must have extent 1; got axis ", axis, ", x ", x.shape());
  Shape shape = x.shape();
  shape.erase(at);
  return reshape(x, shape);
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const int lead = shape.size() - x.dims();
  bool fits = lead >= 0;
  for (int i = 0; fits && i < x.dims(); ++i) fits = x.shape()[i] == 1 || x.shape()[i] == shape[lead + i];
  CAMO_CHECK(fits, "expand: only extents of 1 and new leading axes can be repeated; got x ", x.shape(), ", shape ",
             shape);
  int64_t elements = 1;
  for (int64_t extent : shape) {
    CAMO_CHECK(extent >= 0, "expand: extents must not be negative; got x ", x.shape(), ", shape ", shape);
    CAMO_CHECK(!__builtin_mul_overflow(elements, extent, &elements), "expand: shape ", shape, " has too many elements");
  }
  if (shape == x.shape()) return x;
  Shape strides = Shape::filled(shape.size(), 0);
  for (int i = 0; i < x.dims(); ++i) {
    if (x.shape()[i] == shape[lead + i]) strides[lead + i] = x.strides()[i];
  }
  const Tensor y = make_view(x, shape, strides, x.offset());
  record<ExpandNode>(y, {x}, x.shape());
  return y;
}

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  const Tensor y = clone(x);
  record<ContiguousNode>(y, {x});
  return y;
}

Tensor slice(const Tensor& x, int axis, int64_t start, int64_t stop, int64_t step) {
  const int at = normalize_axis(axis, x.dims(), "slice");
  const int64_t extent = x.shape()[at];
  const int64_t begin = start < 0 ? start + extent : start, end = stop < 0 ? stop + extent : stop;
  CAMO_CHECK(step >= 1, "slice: the step must be at least 1; got ", step, "; flip() reverses");
  CAMO_CHECK(0 <= begin && begin <= end && end <= extent, "slice: positions must lie in order within the extent ",
             extent, " of axis ", axis, "; got ", start, " : ", stop, ", x ", x.shape());
  const Tensor y = slice_view(x, at, begin, begin == end ? 0 : (end - begin - 1) / step + 1, std::min(step, extent));
  record<SliceNode>(y, {x}, x.shape(), at, begin, std::min(step, extent));
  return y;
}

Tensor select(const Tensor& x, int axis, int64_t index) {
  const int at = normalize_axis(axis, x.dims(), "select");
  const int64_t extent = x.shape()[at];
  const int64_t position = index < 0 ? index + extent : index;
  CAMO_CHECK(0 <= position && position < extent, "select: the index must lie within the extent ", extent, " of axis ",
             axis, "; got ", index, ", x ", x.shape());
  const Tensor y = select_view(x, at, position);
  record<SelectNode>(y, {x}, x.shape(), at, position);
  return y;
}

Tensors split(const Tensor& x, const std::vector<int64_t>& sizes, int axis) {
  const int at = normalize_axis(axis, x.dims(), "split");
  int64_t rest = x.shape()[at];
  bool valid = true;
  for (int64_t size : sizes) {
    valid = valid && size >= 0 && size <= rest;
    rest -= valid ? size : 0;
  }
  CAMO_CHECK(valid && rest == 0, "split: sizes must not be negative and add up to the extent ", x.shape()[at],
             " of axis ", axis, "; got ", listed(sizes), ", x ", x.shape());
  if (sizes.empty()) return {};
  Tensors parts;
  int64_t start = 0;
  for (int64_t size : sizes) {
    parts.push_back(slice_view(x, at, start, size, 1));
    start += size;
  }
  record<SplitNode>(std::span<const Tensor>(parts), std::span<const Tensor>(&x, 1), x.shape(), sizes, at);
  return parts;
}

Tensors unstack(const Tensor& x, int axis) {
  const int at = normalize_axis(axis, x.dims(), "unstack");
  Tensors parts = split(x, std::vector<int64_t>(static_cast<size_t>(x.shape()[at]), 1), at);
  for (Tensor& part : parts) part = squeeze(part, at);
  return parts;
}

Tensors chunk(const Tensor& x, int count, int axis) {
  const int at = normalize_axis(axis, x.dims(), "chunk");
  CAMO_CHECK(count >= 1, "chunk: the count must be at least 1; got ", count);
  const int64_t extent = x.shape()[at];
  const int64_t size = (extent + count - 1) / count;
  std::vector<int64_t> sizes;
  if (extent == 0) sizes.assign(static_cast<size_t>(count), 0);
  for (int64_t start = 0; start < extent; start += size) sizes.push_back(std::min(size, extent - start));
  return split(x, sizes, axis);
}

}  // namespace camo
